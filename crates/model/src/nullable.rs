//! Go encodes a nil slice, map or struct as `null`; these fields read it as their default.

use serde::{Deserialize, Deserializer};

pub(crate) fn nullable<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}
