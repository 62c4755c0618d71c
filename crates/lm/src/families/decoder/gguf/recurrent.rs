//! The keys of recurrent layers, Gated DeltaNets among layers that attend.

use candle_core::quantized::gguf_file::Value as MetadataValue;
use rlhf_ops::DeltaHeads;
use serde_json::{Map, Value, json};

use super::super::{Decoder, Mixer};
use super::keys_of_decoder;
use crate::Result;
use crate::families::family::{GgufMetadata, not_run};
use crate::gguf::{self, Keys};

/// Of every so many layers the last attends.
const INTERVAL: &str = "full_attention_interval";
/// Which layers recur, where no such number says it.
const RECURS: &str = "attention.recurrent_layers";

/// The `config.json` of a decoder with recurrent layers.
pub(in crate::families) fn keys_of_recurrent(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
) -> Result<Map<String, Value>> {
    let mut json = keys_of_decoder(keys, model_type, tied)?;
    let (layers, ahead) = (keys.blocks()?, keys.blocks_ahead()?);
    let recurs = match keys.flags(RECURS, layers + ahead)? {
        Some(recurs) => recurs,
        None => {
            let every = keys.optional_size(INTERVAL)?.filter(|n| *n > 0);
            let every = every.unwrap_or(4);
            (1..=layers).map(|n| !n.is_multiple_of(every)).collect()
        }
    };
    let kind = |recurs: &bool| match recurs {
        true => "linear_attention",
        false => "full_attention",
    };
    let types: Vec<_> = recurs[..layers].iter().map(kind).collect();
    let values = keys.size("ssm.time_step_rank")?;
    let inner = keys.size("ssm.inner_size")?;
    if !inner.is_multiple_of(values) {
        return Err(keys.error(format!(
            "ssm.inner_size = {inner} is no multiple of ssm.time_step_rank = {values}, the number of heads"
        )));
    }
    json.extend(gguf::object(json!({
        "layer_types": types,
        "linear_num_key_heads": keys.size("ssm.group_count")?,
        "linear_num_value_heads": values,
        "linear_key_head_dim": keys.size("ssm.state_size")?,
        "linear_value_head_dim": inner / values,
        "linear_conv_kernel_dim": keys.size("ssm.conv_kernel")?,
    })));
    Ok(json)
}

/// Adds the keys of the recurrent layers of `model` to `metadata`, where it has some.
pub(super) fn describe(
    model: &Decoder,
    architecture: &str,
    metadata: &mut GgufMetadata,
) -> Result<()> {
    let mixers = model.layers.iter().map(|layer| layer.mixer);
    let Some((heads, taps)) = mixers.clone().find_map(|mixer| match mixer {
        Mixer::DeltaNet { heads, taps } => Some((heads, taps)),
        _ => None,
    }) else {
        return Ok(());
    };
    let DeltaHeads {
        keys,
        values,
        key_dim,
        value_dim,
    } = heads;
    if key_dim != value_dim {
        return Err(not_run(
            architecture,
            "linear_value_head_dim other than linear_key_head_dim",
        ));
    }
    for (key, size) in [
        ("ssm.conv_kernel", taps),
        ("ssm.state_size", key_dim),
        ("ssm.group_count", keys),
        ("ssm.time_step_rank", values),
        ("ssm.inner_size", values * value_dim),
    ] {
        metadata.set_size(key, size);
    }
    let recurs: Vec<bool> = mixers.map(|mixer| mixer != Mixer::Attention).collect();
    let layers = recurs.len();
    let every = recurs.iter().position(|recurs| !recurs).unwrap_or(layers) + 1;
    metadata.set_size(INTERVAL, every);
    if (1..=layers).any(|n| recurs[n - 1] == n.is_multiple_of(every)) {
        let flags = recurs.into_iter().map(MetadataValue::Bool).collect();
        metadata.set(RECURS, MetadataValue::Array(flags));
        metadata.keys.retain(|(key, _)| *key != INTERVAL);
    }
    // Of pictures, rows, columns and times turn different frequencies, one after another; of texts all three are the position.
    let turned = model.ropes[0].dim / 2;
    let sections = [turned.div_ceil(3), (turned + 1) / 3, turned / 3, 0];
    let sections = sections.map(|n| MetadataValue::I32(n as i32)).to_vec();
    metadata.set("rope.dimension_sections", MetadataValue::Array(sections));
    Ok(())
}
