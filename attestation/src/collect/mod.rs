//! The guest's TPM: keys, PCR 15, evidence. Calls block; the TPM is slow.

use crate::{
    protocol::Evidence,
    session::{Attester, BoxError},
};
