//! What decoding may still look at of earlier tokens: keys and values, what short convolutions reach back to, and what recurrent layers have
//! come to.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::attend::Turn;
use crate::recurrence::RowState;
use crate::{Error, Result};

/// Keys and values of every token computed so far, one pool `[capacity, Hkv·D]` each per layer; of a layer with a convolution one pool
/// `[capacity, C]` of what goes into it.
///
/// A token's place in the pool says nothing about its sequence: rows list the places they see
/// ([`rlhf_ops::DecodeRows`]), so rows can share a prompt, leave and enter freely. New tokens take the
/// places from [`len`](KvCache::len) on, in the order they are given to the model.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// The pools of each layer, of the same capacity.
    pools: Vec<Option<Vec<Tensor>>>,
    /// Of each recurrent layer, by the place of a row's newest token, what the row has come to.
    states: Vec<BTreeMap<u32, State>>,
    len: usize,
}

#[derive(Debug, Clone)]
struct State {
    of_row: RowState,
    /// Whether other rows may go on from here: at the end of a prompt.
    is_shared: bool,
}

/// Room for this many tokens is made at first; it doubles from there.
const FIRST_CAPACITY: usize = 256;

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            pools: vec![None; layers],
            states: vec![BTreeMap::new(); layers],
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
        if keep.is_empty() {
            *self = Self::new(self.pools.len());
            return Ok(());
        }
        for pool in self.pools.iter_mut().flatten().flatten() {
            let keep = Tensor::new(keep, pool.device())?;
            let capacity = keep.elem_count().next_power_of_two().max(FIRST_CAPACITY);
            *pool = resized(&pool.index_select(&keep, 0)?, keep.elem_count(), capacity)?;
        }
        for states in &mut self.states {
            let moved = keep.iter().enumerate();
            let moved = moved.filter_map(|(new, old)| Some((new as u32, states.remove(old)?)));
            *states = moved.collect();
        }
        self.len = keep.len();
        Ok(())
    }

    /// What the row has come to in `layer` whose newest token has this place.
    pub(crate) fn state(&self, layer: usize, place: u32) -> Result<&RowState> {
        let found = self.states.get(layer).and_then(|states| states.get(&place));
        match found {
            Some(state) => Ok(&state.of_row),
            None => Err(Error::Invalid(format!(
                "cache: layer {layer} does not know what a row had come to at place {place}; rows go on from the end of a prompt or from their newest token"
            ))),
        }
    }

    /// Keeps what a row has come to in `layer` with the token at `place`. What it had come to at the place `before` is forgotten, unless other
    /// rows may go on from there.
    pub(crate) fn keep_state(
        &mut self,
        layer: usize,
        (place, before): (u32, Option<u32>),
        of_row: RowState,
    ) -> Result<()> {
        let layers = self.states.len();
        let Some(states) = self.states.get_mut(layer) else {
            return Err(Error::Invalid(format!(
                "cache: made for {layers} layers, used with a model that has more"
            )));
        };
        if let Some(before) = before
            && states.get(&before).is_some_and(|state| !state.is_shared)
        {
            states.remove(&before);
        }
        let is_shared = before.is_none();
        states.insert(place, State { of_row, is_shared });
        Ok(())
    }

    /// Writes what convolutions reach back to, `x` `[T, C]` of new tokens, into the free places of `layer`. They count once
    /// [`advance`](Self::advance) is called, after every layer has written.
    pub(crate) fn append(&mut self, layer: usize, x: &Tensor) -> Result<()> {
        let (x, len) = (x.detach().contiguous()?, self.len);
        for pool in self.with_room(layer, &[&x])? {
            pool.slice_set(&x, 0, len)?;
        }
        Ok(())
    }

    /// Writes keys `k` and values `v`, `[T, Hkv·D]`, of new tokens likewise, the keys rotated where there is a `turn`. Returns their queries `q`, rotated
    /// too.
    pub(crate) fn append_heads(
        &mut self,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        turn: Turn<'_>,
        head_dim: usize,
    ) -> Result<Tensor> {
        let len = self.len;
        match self.with_room(layer, &[k, v])? {
            [keys, values] => {
                let pools = [keys, values];
                Ok(rlhf_ops::rope_append(
                    [q, k, v],
                    turn,
                    head_dim,
                    pools,
                    len,
                )?)
            }
            _ => Err(Error::Invalid(format!("cache: layer {layer} has no pools"))),
        }
    }

    /// The pools of `layer`, with room for what `new` tokens have of each.
    fn with_room(&mut self, layer: usize, new: &[&Tensor]) -> Result<&[Tensor]> {
        let (len, layers) = (self.len, self.pools.len());
        let Some(slot) = self.pools.get_mut(layer) else {
            return Err(Error::Invalid(format!(
                "cache: made for {layers} layers, used with a model that has more"
            )));
        };
        let old = slot.take().unwrap_or_default();
        let mut pools = Vec::with_capacity(new.len());
        for (i, new) in new.iter().enumerate() {
            let needed = len + new.dim(0)?;
            let capacity = needed.next_power_of_two().max(FIRST_CAPACITY);
            pools.push(match old.get(i) {
                Some(pool) if pool.dim(0)? >= needed => pool.clone(),
                Some(full) => resized(full, len, capacity)?,
                None => resized(new, 0, capacity)?,
            });
        }
        Ok(slot.insert(pools))
    }

    /// Counts `tokens` more.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// The pools of `layer`, as many as it has had parts.
    pub(crate) fn pools(&self, layer: usize) -> Result<&[Tensor]> {
        match self.pools.get(layer) {
            Some(Some(pools)) => Ok(pools),
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
            let heads = [&keys, &keys, &values];
            cache.append_heads(layer, heads, None, 1).unwrap();
        }
        cache.advance(range.len());
    }

    fn held(cache: &KvCache, layer: usize) -> (Vec<f32>, Vec<f32>) {
        let [keys, values] = cache.pools(layer).unwrap() else {
            panic!("two pools were written");
        };
        let flat = |t: &Tensor| {
            let t = t.narrow(0, 0, cache.len()).unwrap();
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        (flat(keys), flat(values))
    }

    /// The oracle is what a model of every family writes into the cache for two prompts.
    #[test]
    fn a_model_keeps_as_much_as_its_configuration_says() {
        let fixtures =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf");
        let mut with_states = 0;
        for entry in fs_err::read_dir(fixtures).unwrap() {
            let dir = entry.unwrap().path();
            let (config, tensors) = crate::read_lm(&dir).unwrap();
            let params = crate::Params::load(&tensors, &Device::Cpu, DType::F32).unwrap();
            let model = crate::CausalLm::new(&config, &params).unwrap();
            let mut cache = KvCache::new(config.layers());
            let mut packer = crate::Packer::new();
            packer.sequence(&[1, 2, 3]);
            packer.sequence(&[4, 5]);
            let batch = packer.finish(&Device::Cpu).unwrap();
            model.prefill(&batch, &mut cache).unwrap();
            let pools = cache.pools.iter().flatten().flatten();
            let width: usize = pools.map(|pool| pool.dim(1).unwrap()).sum();
            let states = cache.states.iter().flat_map(BTreeMap::values);
            let states: usize = states.map(|state| state.of_row.numbers()).sum();
            let what = dir.display();
            assert_eq!(width, config.cache_width(), "{what}");
            assert_eq!(states, 2 * config.state_width(), "{what}");
            with_states += usize::from(states > 0);
        }
        assert_eq!(with_states, 1, "Qwen3.5's");
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
            assert_eq!(
                cache.pools(layer).unwrap()[0].dim(0).unwrap(),
                FIRST_CAPACITY
            );
        }
        assert!(cache.compact(&[4]).is_err());
        cache.compact(&[]).unwrap();
        assert!(cache.is_empty());
    }
}
