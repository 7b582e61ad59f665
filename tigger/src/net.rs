//! Sockets: accepting clients, connecting to servers. What travels over them is not looked at here.

pub mod address;
pub mod connect;
pub mod listener;
pub mod resolver;
pub mod stream;
