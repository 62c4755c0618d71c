//! Keys and values of the tokens that decoding may still look at.

use candle_core::Tensor;

use crate::{Error, Result};

/// Keys and values of every token computed so far, one pool `[capacity, Hkv·D]` each per layer.
///
/// A token's place in the pool says nothing about its sequence: rows list the places they see
/// ([`rlhf_ops::DecodeRows`]), so rows can share a prompt, leave and enter freely. New tokens take the
/// places from [`len`](KvCache::len) on, in the order they are given to the model.
#[derive(Debug, Clone)]
pub struct KvCache {
    pools: Vec<Option<Pool>>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Pool {
    keys: Tensor,
    values: Tensor,
}

/// Room for this many tokens is made at first; it doubles from there.
const FIRST_CAPACITY: usize = 256;

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            pools: vec![None; layers],
            len: 0,
        }
    }

    /// Tokens held, which is also the place of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the tokens at the places `keep`: afterwards `keep[i]` is at place i. Room that
    /// is no longer needed is given back.
    pub fn compact(&mut self, keep: &[u32]) -> Result<()> {
        if let Some(beyond) = keep.iter().find(|place| **place as usize >= self.len) {
            return Err(Error::Invalid(format!(
                "cache: asked to keep the token at place {beyond}, but only {} are held",
                self.len
            )));
        }
        for pool in self.pools.iter_mut().flatten() {
            let keep = Tensor::new(keep, pool.keys.device())?;
            let kept = |t: &Tensor| -> Result<Tensor> {
                let capacity = keep.elem_count().next_power_of_two().max(FIRST_CAPACITY);
                resized(&t.index_select(&keep, 0)?, keep.elem_count(), capacity)
            };
            *pool = Pool {
                keys: kept(&pool.keys)?,
                values: kept(&pool.values)?,
            };
        }
        self.len = keep.len();
        Ok(())
    }

    /// Writes the keys and values of new tokens, `[T, Hkv·D]`, into the free places of `layer`. They
    /// count once [`advance`](Self::advance) is called, after every layer has written.
    pub(crate) fn append(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (len, layers) = (self.len, self.pools.len());
        let Some(slot) = self.pools.get_mut(layer) else {
            return Err(Error::Invalid(format!(
                "cache: made for {layers} layers, used with a model that has more"
            )));
        };
        let needed = len + keys.dim(0)?;
        let pool = match slot.take() {
            Some(pool) if pool.keys.dim(0)? >= needed => pool,
            full => {
                let capacity = needed.next_power_of_two().max(FIRST_CAPACITY);
                let grown = |old: Option<&Tensor>, new: &Tensor| match old {
                    Some(old) => resized(old, len, capacity),
                    None => resized(&new.detach(), 0, capacity),
                };
                Pool {
                    keys: grown(full.as_ref().map(|p| &p.keys), keys)?,
                    values: grown(full.as_ref().map(|p| &p.values), values)?,
                }
            }
        };
        let pool = slot.insert(pool);
        pool.keys.slice_set(&keys.detach().contiguous()?, 0, len)?;
        pool.values
            .slice_set(&values.detach().contiguous()?, 0, len)?;
        Ok(())
    }

    /// Counts `tokens` more.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// The pools of keys and values of `layer`, `[capacity, Hkv·D]` each.
    pub(crate) fn pool(&self, layer: usize) -> Result<(&Tensor, &Tensor)> {
        match self.pools.get(layer) {
            Some(Some(pool)) => Ok((&pool.keys, &pool.values)),
            _ => Err(Error::Invalid(format!("cache: layer {layer} is empty"))),
        }
    }
}

/// A fresh pool with room for `capacity` tokens that begins with the first `len` of `old`.
fn resized(old: &Tensor, len: usize, capacity: usize) -> Result<Tensor> {
    let (_, width) = old.dims2()?;
    let pool = Tensor::zeros((capacity, width), old.dtype(), old.device())?;
    if len > 0 {
        pool.slice_set(&old.narrow(0, 0, len)?.contiguous()?, 0, 0)?;
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Tokens whose key is their number and whose value is its negative.
    fn tokens(range: std::ops::Range<u32>) -> (Tensor, Tensor) {
        let keys = Tensor::arange(range.start, range.end, &Device::Cpu)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
            .reshape(((), 1))
            .unwrap();
        let values = keys.neg().unwrap();
        (keys, values)
    }

    fn append(cache: &mut KvCache, range: std::ops::Range<u32>) {
        let (keys, values) = tokens(range.clone());
        for layer in 0..2 {
            cache.append(layer, &keys, &values).unwrap();
        }
        cache.advance(range.len());
    }

    fn held(cache: &KvCache, layer: usize) -> (Vec<f32>, Vec<f32>) {
        let (keys, values) = cache.pool(layer).unwrap();
        let flat = |t: &Tensor| {
            let t = t.narrow(0, 0, cache.len()).unwrap();
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        (flat(keys), flat(values))
    }

    #[test]
    fn tokens_keep_their_places_while_the_pool_grows() {
        let mut cache = KvCache::new(2);
        for start in (0..900).step_by(100) {
            append(&mut cache, start..start + 100);
        }
        for layer in 0..2 {
            let (keys, values) = held(&cache, layer);
            assert!(keys.iter().enumerate().all(|(i, k)| *k == i as f32));
            assert!(values.iter().enumerate().all(|(i, v)| *v == -(i as f32)));
        }
    }

    #[test]
    fn compaction_keeps_what_is_asked_for_in_that_order_and_gives_room_back() {
        let mut cache = KvCache::new(2);
        append(&mut cache, 0..900);
        cache.compact(&[7, 899, 3]).unwrap();
        assert_eq!(cache.len(), 3);
        append(&mut cache, 1000..1001);
        for layer in 0..2 {
            let (keys, values) = held(&cache, layer);
            assert_eq!(keys, [7.0, 899.0, 3.0, 1000.0]);
            assert_eq!(values, [-7.0, -899.0, -3.0, -1000.0]);
            assert_eq!(cache.pool(layer).unwrap().0.dim(0).unwrap(), FIRST_CAPACITY);
        }
        assert!(cache.compact(&[4]).is_err());
        cache.compact(&[]).unwrap();
        assert!(cache.is_empty());
    }
}
