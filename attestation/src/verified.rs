//! Proof that a value is genuine, as a type: only this crate's `verify` functions can make one.

/// A value that passed verification. What it says is true; whether it is wanted is for [`crate::appraise`].
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }
}
