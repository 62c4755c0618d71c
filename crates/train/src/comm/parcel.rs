//! Values as bytes, from one rank to another: little-endian, exact to the last bit.

use std::collections::BTreeMap;

/// A value that can be sent to another rank. Sender and receiver are the same program, so nothing but the value is written.
pub trait Parcel: Sized {
    /// Appends the value to `bytes`.
    fn pack(&self, bytes: &mut Vec<u8>);

    /// Takes the value from the front of `bytes`; `None` where they are too few or no such value.
    fn unpack(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Parcel for $kind {
            fn pack(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn unpack(bytes: &mut &[u8]) -> Option<Self> {
                let (own, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_le_bytes(*own))
            }
        }
    )*};
}

number!(u8, u32, u64, f32, f64);

/// Bytes as they are, such as those of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Parcel for Bytes {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.0.len().pack(bytes);
        bytes.extend_from_slice(&self.0);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let len = usize::unpack(bytes)?;
        let (own, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(Self(own.to_vec()))
    }
}

impl Parcel for () {
    fn pack(&self, _: &mut Vec<u8>) {}

    fn unpack(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Parcel for usize {
    fn pack(&self, bytes: &mut Vec<u8>) {
        (*self as u64).pack(bytes);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        u64::unpack(bytes)?.try_into().ok()
    }
}

impl Parcel for bool {
    fn pack(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        Some(u8::unpack(bytes)? != 0)
    }
}

impl<T: Parcel> Parcel for Vec<T> {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.len().pack(bytes);
        self.iter().for_each(|value| value.pack(bytes));
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let len = usize::unpack(bytes)?;
        (0..len).map(|_| T::unpack(bytes)).collect()
    }
}

impl Parcel for String {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.len().pack(bytes);
        bytes.extend_from_slice(self.as_bytes());
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Bytes::unpack(bytes)?.0).ok()
    }
}

impl<T: Parcel> Parcel for Option<T> {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.is_some().pack(bytes);
        self.iter().for_each(|value| value.pack(bytes));
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        match bool::unpack(bytes)? {
            true => Some(Some(T::unpack(bytes)?)),
            false => Some(None),
        }
    }
}

impl<A: Parcel, B: Parcel> Parcel for (A, B) {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.0.pack(bytes);
        self.1.pack(bytes);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::unpack(bytes)?, B::unpack(bytes)?))
    }
}

impl<T: Parcel> Parcel for BTreeMap<String, T> {
    fn pack(&self, bytes: &mut Vec<u8>) {
        self.len().pack(bytes);
        for (name, value) in self {
            name.pack(bytes);
            value.pack(bytes);
        }
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let len = usize::unpack(bytes)?;
        (0..len).map(|_| <(String, T)>::unpack(bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_out_as_it_went_in_and_cut_bytes_are_no_value() {
        type All = (
            BTreeMap<String, Vec<f32>>,
            (Option<f64>, (Vec<bool>, (usize, Option<u32>))),
        );
        let value: All = (
            BTreeMap::from([("ä".to_owned(), vec![0.1, -0.0, f32::INFINITY])]),
            (Some(f64::MIN_POSITIVE), (vec![true, false], (7, None))),
        );
        let mut bytes = Vec::new();
        value.pack(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!(All::unpack(&mut rest), Some(value));
        assert!(rest.is_empty());
        for end in 0..bytes.len() {
            assert_eq!(All::unpack(&mut &bytes[..end]), None, "{end} bytes");
        }
    }
}
