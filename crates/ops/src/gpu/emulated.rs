//! Launches on the emulated grid: tensors lie in the host's memory, and a function from outside compiles and runs the text.

use std::ffi::c_void;
use std::sync::OnceLock;

use candle_core::{CpuStorage, Result, Storage, StorageRef, Tensor, bail};

use super::{Argument, Kernel, MOST_NUMBERS, by_value};

/// Runs kernel `name` of a C++ `text` on `blocks` of `threads`, each with `shared` bytes of shared memory; `signature` names the type of each
/// argument (`rlhf-grid` says how), `arguments` are their addresses.
pub type Emulator = unsafe fn(
    text: &str,
    name: &str,
    signature: &str,
    blocks: [usize; 2],
    threads: usize,
    shared: usize,
    arguments: &[*mut c_void],
) -> std::result::Result<(), String>;

static EMULATOR: OnceLock<Emulator> = OnceLock::new();

/// From now on kernels for GPUs can run on tensors in the host's memory.
pub(crate) fn emulate(emulator: Emulator) {
    let _ = EMULATOR.set(emulator);
}

/// A value that is passed, at an address of its own.
enum Value {
    Address(*mut c_void),
    Int(i64),
    Float(f32),
    Numbers(Box<[i64; MOST_NUMBERS]>),
}

pub(super) fn launch(
    kernel: &Kernel,
    blocks: [usize; 2],
    arguments: &[Argument<'_>],
) -> Result<()> {
    let Some(emulator) = EMULATOR.get() else {
        bail!("kernel {}: this program has no emulated grid", kernel.name)
    };
    let mut held: Vec<StorageRef<'_>> = Vec::new(); // locked while the kernel runs
    let mut signature = String::new();
    let mut values: Vec<Value> = Vec::new();
    for argument in arguments {
        values.push(match argument {
            Argument::Int(n) => {
                signature.push('l');
                Value::Int(*n as i64)
            }
            Argument::Float(x) => {
                signature.push('f');
                Value::Float(*x as f32)
            }
            Argument::Numbers(all) => {
                signature.push('n');
                Value::Numbers(Box::new(by_value(all)?))
            }
            Argument::Out(memory) => address(&memory.storage, 0, &mut signature)?,
            Argument::OutAt(memory, at) => address(&memory.storage, *at, &mut signature)?,
            Argument::In(tensor) | Argument::Change(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                let address = address(&storage, layout.start_offset(), &mut signature)?;
                held.push(storage);
                address
            }
        });
    }
    let addresses: Vec<*mut c_void> = values
        .iter_mut()
        .map(|value| match value {
            Value::Address(address) => std::ptr::from_mut(address).cast(),
            Value::Int(n) => std::ptr::from_mut(n).cast(),
            Value::Float(x) => std::ptr::from_mut(x).cast(),
            Value::Numbers(all) => std::ptr::from_mut(&mut **all).cast(),
        })
        .collect();
    let (source, threads, shared) = (kernel.source()?, kernel.threads, kernel.shared);
    // SAFETY: the addresses are those of values of the types that the signature names. The memory behind them is locked for reading or owned by
    // outputs; a kernel writes outputs, which nothing else knows yet, and tensors that it was asked to change, which share their memory with none.
    let result = unsafe {
        emulator(
            &source,
            kernel.name,
            &signature,
            blocks,
            threads,
            shared,
            &addresses,
        )
    };
    result.map_err(candle_core::Error::msg)
}

pub(super) fn address_of(tensor: &Tensor) -> Result<i64> {
    let (storage, layout) = tensor.storage_and_layout();
    match address(&storage, layout.start_offset(), &mut String::new())? {
        Value::Address(address) => Ok(address as i64),
        Value::Int(_) | Value::Float(_) | Value::Numbers(_) => bail!("a tensor has an address"),
    }
}

/// The address of the element at `offset`, and its type's letter.
fn address(storage: &Storage, offset: usize, signature: &mut String) -> Result<Value> {
    let Storage::Cpu(storage) = storage else {
        bail!("the emulated grid runs on tensors in the host's memory")
    };
    fn at<T>(elements: &[T], offset: usize) -> *mut c_void {
        elements[offset..].as_ptr().cast_mut().cast()
    }
    let (letter, address) = match storage {
        CpuStorage::F32(x) => ('f', at(x, offset)),
        CpuStorage::BF16(x) => ('b', at(x, offset)),
        CpuStorage::F16(x) => ('h', at(x, offset)),
        CpuStorage::U32(x) => ('u', at(x, offset)),
        CpuStorage::I64(x) => ('l', at(x, offset)),
        _ => bail!("a kernel was given a tensor of a type that it has no form for"),
    };
    signature.push('*');
    signature.push(letter);
    Ok(Value::Address(address))
}
