//! The grid finds what a GPU leaves undefined.

use super::*;

const HEAD: &str = "#define THREADS 64\n";

/// Runs a kernel on one block of 64 threads with 64 floats of shared memory, over 64 numbers.
fn run(body: &str) -> Result<Vec<f32>, String> {
    let text = format!(
        "{HEAD}struct S {{ float a[64]; }};\nKERNEL(test, GLOBAL float* x, INT n, FLOAT factor) {{\n SHARED(S, m); (void)m;\n {body}\n}}"
    );
    let mut x: Vec<f32> = (0..64u8).map(f32::from).collect();
    let (mut address, mut n, mut factor) = (x.as_mut_ptr(), 64i64, 2f32);
    let arguments: [*mut c_void; 3] = [
        (&raw mut address).cast(),
        (&raw mut n).cast(),
        (&raw mut factor).cast(),
    ];
    // SAFETY: the kernels below write the 64 numbers of `x` alone.
    unsafe { launch(&text, "test", "*flf", [1, 1], 64, 256, &arguments) }.map(|()| x)
}

#[test]
fn threads_meet_at_barriers_in_any_order() {
    let reverse =
        "m.a[THREAD] = x[THREAD] * factor; block_sync(); x[THREAD] = m.a[n - 1 - THREAD];";
    let want: Vec<f32> = (0..64u8).rev().map(|i| 2.0 * f32::from(i)).collect();
    for order in 0..4 {
        assert_eq!(with_order(order, || run(reverse)), Ok(want.clone()));
    }
}

#[test]
fn lanes_exchange_numbers() {
    let pairs = run("x[THREAD] = shuffle_xor(x[THREAD], 1);").unwrap();
    assert_eq!(pairs[..4], [1.0, 0.0, 3.0, 2.0]);
}

#[test]
fn faults_are_named() {
    for (what, body, told) in [
        (
            "a barrier that half of the block reaches",
            "if (THREAD < 32) block_sync();",
            "not every thread of its block reaches a barrier",
        ),
        (
            "two barriers",
            "if (THREAD < 32) block_sync();\n else block_sync();",
            "at different barriers",
        ),
        (
            "a shuffle that half of a warp reaches",
            "if (THREAD % 32 < 16) x[THREAD] = shuffle_xor(x[THREAD], 1);",
            "not every lane of its warp",
        ),
        (
            "a copy that nobody waits for",
            "copy16(m.a + THREAD / 4 * 4, x + THREAD / 4 * 4, true);",
            "copies that nobody waited for",
        ),
        (
            "a copy across the grain of 16 bytes",
            "copy16(m.a + 1, x, true); copy_wait();",
            "multiples of 16",
        ),
    ] {
        let error = run(body).expect_err(what);
        assert!(error.contains(told), "{what}: {error}");
    }
}

#[test]
fn shared_memory_is_read_as_nan_before_it_is_written() {
    assert!(
        run("x[THREAD] = m.a[THREAD];")
            .unwrap()
            .iter()
            .all(|x| x.is_nan())
    );
    let early = "copy16(m.a + THREAD / 4 * 4, x + THREAD / 4 * 4, true); x[THREAD] = m.a[THREAD]; copy_wait();";
    assert!(run(early).unwrap().iter().any(|x| x.is_nan()));
}

#[test]
fn numbers_come_with_the_launch() {
    let text = format!(
        "{HEAD}struct Numbers {{ i64 at[64]; }};\nKERNEL(test, NUMBERS n, GLOBAL i64* x) {{ x[THREAD] = n.at[63 - THREAD]; }}"
    );
    let (mut numbers, mut x): (Vec<i64>, Vec<i64>) = ((0..64).collect(), vec![0; 64]);
    let mut address = x.as_mut_ptr();
    let arguments: [*mut c_void; 2] = [numbers.as_mut_ptr().cast(), (&raw mut address).cast()];
    // SAFETY: the kernel reads and writes 64 numbers.
    unsafe { launch(&text, "test", "n*l", [1, 1], 64, 0, &arguments) }.unwrap();
    numbers.reverse();
    assert_eq!(x, numbers);
}

/// Arguments of more bytes than CUDA has for them are found where the text is compiled.
#[test]
fn more_numbers_than_a_launch_takes_are_refused() {
    let text = format!(
        "{HEAD}struct Numbers {{ i64 at[512]; }};\nKERNEL(test, NUMBERS n, INT i) {{ (void)n; (void)i; }}"
    );
    // SAFETY: nothing is launched, for the text does not compile.
    let error = unsafe { launch(&text, "test", "nl", [1, 1], 64, 0, &[]) }.unwrap_err();
    assert!(error.contains("4 KiB"), "{error}");
}

#[test]
fn arguments_and_sizes_are_compared_with_the_text() {
    let text =
        format!("{HEAD}KERNEL(test, GLOBAL const u32* ids, INT n) {{ (void)ids; (void)n; }}");
    // SAFETY: nothing is launched: the signature differs, or the shared memory does.
    let refused = |signature| unsafe { launch(&text, "test", signature, [1, 1], 64, 0, &[]) };
    let error = refused("l*u").unwrap_err();
    assert!(error.contains("*ul") && error.contains("l*u"), "{error}");
    // SAFETY: as above.
    let error = unsafe { launch(&text, "other", "", [1, 1], 64, 0, &[]) }.unwrap_err();
    assert!(error.contains("the text has none"), "{error}");
    let error = run("struct T { float a[65]; }; { SHARED(T, other); (void)other; }").unwrap_err();
    assert!(error.contains("shared memory"), "{error}");
}

#[test]
fn a_text_that_does_not_compile_is_told_with_the_compilers_words() {
    let error = run("no such name;").unwrap_err();
    assert!(
        error.contains("refused") && error.contains("no such"),
        "{error}"
    );
}

/// As IEEE 754 has it, for every pattern of bits.
#[test]
fn half_precision_is_widened_exactly() {
    let text = format!(
        "{HEAD}KERNEL(widen, GLOBAL const f16* h, GLOBAL float* y) {{ for (int i = THREAD; i < 65536; i += THREADS) y[i] = wide(h[i]); }}"
    );
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let mut y = vec![0f32; 65536];
    let (mut from, mut to) = (bits.as_ptr(), y.as_mut_ptr());
    let arguments: [*mut c_void; 2] = [(&raw mut from).cast(), (&raw mut to).cast()];
    // SAFETY: the kernel reads and writes 65 536 numbers.
    unsafe { launch(&text, "widen", "*h*f", [1, 1], 64, 0, &arguments) }.unwrap();
    for (bits, y) in bits.into_iter().zip(y) {
        let (sign, exponent, fraction) = (
            bits >> 15,
            i32::from(bits >> 10 & 31),
            f64::from(bits & 1023),
        );
        let size = match exponent {
            31 if fraction > 0.0 => f64::NAN,
            31 => f64::INFINITY,
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        let want = if sign == 1 { -size } else { size } as f32;
        assert!(
            y.to_bits() == want.to_bits() || y.is_nan() && want.is_nan(),
            "{bits:#x}: {y}, not {want}"
        );
    }
}
