//! The kernel path of Tigger: queries and results that move inside the kernel, without waking a user thread.
//!
//! This crate will be the only one with unsafe code, clang and kernel knowledge. The programs are not written yet, so
//! [`Kernel::load`] always answers why there is no kernel path, and the process degrades to the user path. The shape is
//! here so that the rest of the process is written against it: the kernel path may always say "not me".

#![forbid(unsafe_code)]

/// The kernel path of this process. No value of it exists before the programs do.
#[derive(Debug)]
pub enum Kernel {}

/// Why there is no kernel path; one line for the log and the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable(&'static str);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unavailable {}

impl Kernel {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason; everything then works on the user path.
    pub fn load() -> Result<Self, Unavailable> {
        Err(Unavailable(if cfg!(feature = "kernel") {
            "the kernel path is not built yet"
        } else {
            "built without the feature `kernel`"
        }))
    }
}
