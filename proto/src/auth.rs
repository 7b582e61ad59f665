//! Password authentication: the stored forms of a secret and the MD5 and SCRAM-SHA-256 exchanges, in both
//! roles (we ask a client, a server asks us). It does not frame messages, choose the method (see
//! `auth_type` and HBA rules) or find the secret of a user, and it takes its random bytes as arguments.

pub mod md5;
pub mod scram;
pub mod secret;
