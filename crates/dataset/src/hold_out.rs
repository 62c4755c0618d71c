//! stub, replaced on merge
use std::collections::HashMap;
use std::hash::Hash;
/// stub
pub fn hold_out<T, K: Hash + Eq>(
    rows: Vec<T>,
    fraction: f64,
    key: impl Fn(&T) -> K,
) -> crate::Result<(Vec<T>, Vec<T>)> {
    let mut seen: HashMap<K, usize> = HashMap::new();
    let mut kept = Vec::new();
    let mut held = Vec::new();
    for row in rows {
        let next = seen.len();
        let n = *seen.entry(key(&row)).or_insert(next);
        if ((n + 1) as f64 * fraction).floor() == (n as f64 * fraction).floor() {
            kept.push(row)
        } else {
            held.push(row)
        }
    }
    Ok((kept, held))
}
