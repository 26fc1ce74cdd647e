//! Compresses one text after another. Setting a compressor up takes 300 kB of zeros, and longer than compressing a call with
//! it; what lies between two of them in memory keeps the first from being used again. So each thread keeps its own.

use std::cell::RefCell;
use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};

/// What stands around the compressed text.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Header and checksum of zlib.
    Zlib,
    Raw,
}

type Kept = RefCell<(Compress, Vec<u8>)>;

fn kept(form: Form) -> Kept {
    RefCell::new((Compress::new(Compression::fast(), matches!(form, Form::Zlib)), Vec::new()))
}

thread_local! {
    static ZLIB: Kept = kept(Form::Zlib);
    static RAW: Kept = kept(Form::Raw);
}

/// Compresses the text that `write` writes. `write` must not compress anything itself.
pub fn deflate(form: Form, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let keeper = match form {
        Form::Zlib => &ZLIB,
        Form::Raw => &RAW,
    };
    keeper.with_borrow_mut(|(compress, text)| {
        text.clear();
        write(text)?;
        compress.reset();
        let mut packed = Vec::with_capacity(text.len() / 2 + 64);
        loop {
            let done = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            let rest = text.get(done..).unwrap_or_default();
            if compress.compress_vec(rest, &mut packed, FlushCompress::Finish)? == Status::StreamEnd {
                break;
            }
            packed.reserve(packed.capacity().max(256));
        }
        packed.shrink_to_fit();
        // one huge call must not keep its memory for ever
        text.shrink_to(1 << 20);
        Ok(packed)
    })
}
