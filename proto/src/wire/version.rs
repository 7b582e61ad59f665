//! Versions of the protocol: 3.0, and 3.2 of PostgreSQL 18, whose cancel keys are longer (manual, "Protocol Versions").

/// A version that is spoken. 3.1 is reserved: nobody ever spoke it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// 3.0
    #[default]
    V3_0,
    /// 3.2
    V3_2,
}

impl Version {
    /// What is spoken with a client that asks for this minor version.
    pub fn for_client(minor: u16) -> Self {
        if minor >= Self::V3_2.minor() { Self::V3_2 } else { Self::V3_0 }
    }

    /// The minor version.
    pub fn minor(self) -> u16 {
        match self {
            Self::V3_0 => 0,
            Self::V3_2 => 2,
        }
    }

    /// The number in a StartupMessage and in a NegotiateProtocolVersion.
    pub fn code(self) -> u32 {
        3 << 16 | u32::from(self.minor())
    }

    /// Length of the keys that PostgreSQL gives at login: process id, and a secret of 4 or 32 bytes (`PostgresMain`).
    pub fn cancel_key_len(self) -> usize {
        match self {
            Self::V3_0 => 8,
            Self::V3_2 => 36,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients() {
        let check = |minor, expected| assert_eq!(Version::for_client(minor), expected, "{minor}");
        check(0, Version::V3_0);
        check(1, Version::V3_0);
        check(2, Version::V3_2);
        check(3, Version::V3_2);
        check(9999, Version::V3_2);
        assert_eq!((Version::V3_0.code(), Version::V3_2.code()), (196_608, 196_610));
    }
}
