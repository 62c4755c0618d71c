//! A boundary around parsers of others: a panic in them becomes an error.
//!
//! Files are made by anyone, and a crate that reads them may index out of range on one that is damaged.

/// What `work` gives, or what is wrong with what it read. Whatever `work` was changing must not be used after an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    rlhf_base::guard::catch(work).map_err(|panic| format!("damaged: {panic}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words_and_the_next_call_works() {
        assert_eq!(guarded(|| 1), Ok(1));
        let index = std::hint::black_box(3);
        let said = guarded(|| [1, 2][index]).unwrap_err();
        assert!(said.contains("index out of bounds"), "{said}");
        assert_eq!(guarded(|| 2), Ok(2));
    }
}
