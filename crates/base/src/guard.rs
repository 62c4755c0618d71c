//! A boundary around parsers of others: a panic inside becomes an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside the boundary, where a panic is not printed.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`, which reads what may be damaged with a parser that is not ours. If it panics, nothing is printed and the panic's
/// message is the error; what `call` was changing must then not be used again.
///
/// ```
/// let read = rlhf_base::guard::catch(|| [1, 2, 3].iter().position(|&n| n == 2));
/// assert_eq!(read, Ok(Some(1)));
/// assert_eq!(rlhf_base::guard::catch(|| panic!("no")), Err::<(), _>("no".to_owned()));
/// ```
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !INSIDE.get() {
                usual(panic);
            }
        }));
    });
    let outside = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(outside);
    result.map_err(|panic| message(panic.as_ref()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
        .to_owned()
}
