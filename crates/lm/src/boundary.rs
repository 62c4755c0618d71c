//! A boundary around parsers of others: a panic in them becomes an error.
//!
//! Files are made by anyone, and a crate that reads them may index out of range on one that is damaged.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`], where a panic is an error and prints nothing.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, or the message of its panic. Whatever `work` was changing must not be used after an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The hook that prints panics belongs to the process: it is wrapped once, and asks the thread whether to print.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                print(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("damaged: {}", text.unwrap_or("its reader panicked"))
    })
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
