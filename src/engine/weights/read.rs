//! safetensors files, read tensor by tensor. Nothing in the header is believed before it is checked: a truncated or
//! hostile file gives an error that names the file, the tensor and the bytes, and never a large allocation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::Value;

use crate::engine::error::{Error, Kind, Result};

/// Longest header that is read, in bytes (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;
/// Highest rank of a tensor that is read.
const MAX_RANK: usize = 8;

/// Number types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F16,
    Bf16,
    F32,
    F64,
    /// Integers of so many bytes: handed out one by one alone.
    Whole(usize, Sign),
    /// Others: listed, never handed out.
    Other(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Signed,
    Unsigned,
}

impl Stored {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "F16" => Stored::F16,
            "BF16" => Stored::Bf16,
            "F32" => Stored::F32,
            "F64" => Stored::F64,
            "I8" => Stored::Whole(1, Sign::Signed),
            "I16" => Stored::Whole(2, Sign::Signed),
            "I32" => Stored::Whole(4, Sign::Signed),
            "I64" => Stored::Whole(8, Sign::Signed),
            "U8" => Stored::Whole(1, Sign::Unsigned),
            "U16" => Stored::Whole(2, Sign::Unsigned),
            "U32" => Stored::Whole(4, Sign::Unsigned),
            "U64" => Stored::Whole(8, Sign::Unsigned),
            "BOOL" | "F8_E4M3" | "F8_E5M2" => Stored::Other(1),
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Stored::F16 | Stored::Bf16 => 2,
            Stored::F32 => 4,
            Stored::F64 => 8,
            Stored::Whole(n, _) | Stored::Other(n) => n,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    stored: Stored,
    /// As the file names it.
    dtype: String,
    dims: Vec<usize>,
    start: u64,
    len: usize,
}

#[derive(Clone, Debug)]
enum Bytes {
    Disk(Arc<Mutex<File>>),
    Memory(&'static [u8]),
}

/// An opened safetensors file whose header has been checked.
#[derive(Clone, Debug)]
pub struct TensorFile {
    origin: String,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    data_start: u64,
    bytes: Bytes,
}

impl TensorFile {
    /// Opens a file. Errors: missing, truncated, not safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::file("load", path, e))?;
        let len = file.metadata().map_err(|e| Error::file("load", path, e))?.len();
        Self::parse(path.display().to_string(), Bytes::Disk(Arc::new(Mutex::new(file))), len)
    }

    /// From the bytes of a file in the binary.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::parse(name.to_string(), Bytes::Memory(bytes), bytes.len() as u64)
    }

    /// Where it came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.dims.as_slice())
    }

    /// The number type of a tensor as the file names it; nothing for an unknown name.
    pub fn stored(&self, name: &str) -> &str {
        self.entries.get(name).map_or("", |e| e.dtype.as_str())
    }

    /// The first value of a tensor of floats or integers. `None` for an empty tensor, one of another type, or an unknown name.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(entry) = self.entries.get(name).filter(|e| e.len > 0) else { return Ok(None) };
        if let Stored::Whole(size, sign) = entry.stored {
            let bytes = self.fetch(name, &Entry { len: size, ..entry.clone() })?;
            let mut word = [0u8; 8];
            word.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
            let bits = u64::from_le_bytes(word);
            // What stands left of a negative number's own bytes are ones.
            let left = 64 - 8 * size as u32;
            return Ok(Some(match sign {
                Sign::Signed => ((bits << left).cast_signed() >> left) as f64,
                Sign::Unsigned => bits as f64,
            }));
        }
        let Some(all) = self.read(name, DType::F64, &Device::Cpu)? else { return Ok(None) };
        Ok(all.flatten_all()?.to_vec1::<f64>()?.first().copied())
    }

    /// The file's own `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads a tensor, converted to `dtype`. `None` for a tensor of integers (position ids and the like) or an
    /// unknown name.
    pub fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        if matches!(entry.stored, Stored::Whole(..) | Stored::Other(_)) {
            return Ok(None);
        }
        let bytes = self.fetch(name, entry)?;
        let dims = entry.dims.as_slice();
        let tensor = match entry.stored {
            Stored::F16 => {
                let half: Vec<f16> = words(&bytes, |b: [u8; 2]| f16::from_le_bytes(b));
                let mut out = vec![0f32; half.len()];
                half.convert_to_f32_slice(&mut out);
                Tensor::from_vec(out, dims, device)?
            }
            Stored::Bf16 => {
                Tensor::from_vec(words(&bytes, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()), dims, device)?
            }
            Stored::F32 => Tensor::from_vec(words(&bytes, f32::from_le_bytes), dims, device)?,
            Stored::F64 => Tensor::from_vec(words(&bytes, f64::from_le_bytes), dims, device)?,
            Stored::Whole(..) | Stored::Other(_) => return Ok(None),
        };
        Ok(Some(tensor.to_dtype(dtype)?))
    }

    /// A number that changes when the file does: FNV-1a over the layout of all tensors and up to 64 samples of 4 kB of
    /// the data (hashing gigabytes at every start would cost seconds).
    pub fn fingerprint(&self) -> Result<u64> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut feed = |bytes: &[u8]| {
            bytes.iter().for_each(|&b| hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
        };
        let stride = self.entries.len().div_ceil(64).max(1);
        for (i, (name, entry)) in self.entries.iter().enumerate() {
            feed(name.as_bytes());
            // Fingerprints are older than integers that are read.
            let stored = match entry.stored {
                Stored::Whole(size, _) => Stored::Other(size),
                other => other,
            };
            feed(format!("{stored:?}{:?}", entry.dims).as_bytes());
            if i % stride == 0 {
                feed(&self.fetch(name, &Entry { len: entry.len.min(4096), ..entry.clone() })?);
            }
        }
        Ok(hash)
    }

    fn fetch(&self, name: &str, entry: &Entry) -> Result<std::borrow::Cow<'static, [u8]>> {
        let start = self.data_start + entry.start;
        match &self.bytes {
            // The range was checked against the length when the header was parsed.
            Bytes::Memory(all) => {
                Ok(all.get(start as usize..start as usize + entry.len).unwrap_or_default().into())
            }
            Bytes::Disk(file) => {
                let mut buffer = vec![0u8; entry.len];
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut buffer)).map_err(
                    |e| {
                        Error::file(
                            "load",
                            &PathBuf::from(&self.origin),
                            format!("tensor \"{name}\" cannot be read: {e}"),
                        )
                    },
                )?;
                Ok(buffer.into())
            }
        }
    }

    fn parse(origin: String, bytes: Bytes, file_len: u64) -> Result<Self> {
        let bad = |message: String| {
            Error::new(Kind::File, "load", format!("{origin}: not a whole safetensors file: {message}"))
                .hint("was the download cut short? fetch the file again")
        };
        let header_bytes = |start: u64, len: usize| -> Result<Vec<u8>> {
            match &bytes {
                Bytes::Memory(all) => {
                    Ok(all.get(start as usize..start as usize + len).unwrap_or_default().to_vec())
                }
                Bytes::Disk(file) => {
                    let mut buffer = vec![0u8; len];
                    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    file.seek(SeekFrom::Start(start))
                        .and_then(|_| file.read_exact(&mut buffer))
                        .map_err(|e| bad(e.to_string()))?;
                    Ok(buffer)
                }
            }
        };
        if file_len < 8 {
            return Err(bad(format!("it has {file_len} bytes")));
        }
        let mut length = [0u8; 8];
        length.copy_from_slice(&header_bytes(0, 8)?);
        let header_len = u64::from_le_bytes(length);
        if header_len > MAX_HEADER || header_len > file_len - 8 {
            return Err(bad(format!("its header claims {header_len} bytes, the file has {file_len}")));
        }
        let header: Value = serde_json::from_slice(&header_bytes(8, header_len as usize)?)
            .map_err(|e| bad(format!("its header is no JSON: {e}")))?;
        let Value::Object(header) = header else { return Err(bad("its header is no JSON object".into())) };
        let data_start = 8 + header_len;
        let data_len = file_len - data_start;
        let mut entries = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                let pairs = value.as_object().into_iter().flatten();
                metadata = pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect();
                continue;
            }
            let entry =
                parse_entry(&value, data_len).map_err(|why| bad(format!("tensor \"{name}\": {why}")))?;
            entries.insert(name, entry);
        }
        Ok(TensorFile { origin, entries, metadata, data_start, bytes })
    }
}

fn parse_entry(value: &Value, data_len: u64) -> std::result::Result<Entry, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("no dtype")?;
    let stored = Stored::parse(dtype).ok_or_else(|| format!("unknown dtype \"{dtype}\""))?;
    let shape = value.get("shape").and_then(Value::as_array).ok_or("no shape")?;
    if shape.len() > MAX_RANK {
        return Err(format!("{} dimensions", shape.len()));
    }
    let mut dims = Vec::with_capacity(shape.len());
    let mut count = 1usize;
    for d in shape {
        let d = d.as_u64().and_then(|d| usize::try_from(d).ok()).ok_or("a dimension is no number")?;
        count = count.checked_mul(d).ok_or("its size overflows")?;
        dims.push(d);
    }
    let len = count.checked_mul(stored.size()).ok_or("its size overflows")?;
    let offsets = value.get("data_offsets").and_then(Value::as_array).ok_or("no data_offsets")?;
    let [Some(start), Some(end)] = [0, 1].map(|i| offsets.get(i).and_then(Value::as_u64)) else {
        return Err("bad data_offsets".into());
    };
    if start > end || end > data_len {
        return Err(format!("it should lie at bytes {start}..{end}, the file holds {data_len}"));
    }
    if end - start != len as u64 {
        return Err(format!("shape {dims:?} of {dtype} needs {len} bytes, {} are there", end - start));
    }
    Ok(Entry { stored, dtype: dtype.to_string(), dims, start, len })
}

fn words<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(N)
        .map(|chunk| {
            let mut word = [0u8; N];
            word.copy_from_slice(chunk);
            convert(word)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(header: &str, data: &[u8]) -> Result<TensorFile> {
        let mut all = (header.len() as u64).to_le_bytes().to_vec();
        all.extend_from_slice(header.as_bytes());
        all.extend_from_slice(data);
        raw(&all)
    }

    fn raw(bytes: &[u8]) -> Result<TensorFile> {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(bytes).unwrap();
        f.flush().unwrap();
        TensorFile::open(f.path())
    }

    #[test]
    fn reads_half_precision() {
        let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let f = file(r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#, &data).unwrap();
        let t = f.read("a", DType::F32, &Device::Cpu).unwrap().unwrap();
        assert_eq!(t.to_vec1::<f32>().unwrap(), vec![1.5, -2.0]);
    }

    #[test]
    fn numbers_are_read_from_any_type() {
        for (dtype, bytes, wanted) in [
            ("I8", &(-3i8).to_le_bytes()[..], -3.0),
            ("I32", &(-8i32).to_le_bytes(), -8.0),
            ("I64", &4i64.to_le_bytes(), 4.0),
            ("U8", &[200], 200.0),
            ("U64", &16u64.to_le_bytes(), 16.0),
            ("F32", &0.5f32.to_le_bytes(), 0.5),
        ] {
            let n = bytes.len();
            let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[],"data_offsets":[0,{n}]}}}}"#);
            let f = file(&header, bytes).unwrap();
            assert_eq!(f.number("a").unwrap(), Some(wanted), "{dtype}");
            assert_eq!(f.stored("a"), dtype);
        }
        let f = file(r#"{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#, &[1]).unwrap();
        assert_eq!((f.number("a").unwrap(), f.number("b").unwrap()), (None, None));
    }

    #[test]
    fn hostile_headers_are_errors() {
        let cases = [
            (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, "holds 4"),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, "needs 8 bytes"),
            (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, "overflows"),
            (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "no number"),
            (r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}"#, "unknown dtype"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, "bytes 4..0"),
            (r#"{"a":{"dtype":"F32","shape":[1]}}"#, "no data_offsets"),
            (r#"[1]"#, "no JSON object"),
            (r#"{"a":"#, "no JSON"),
        ];
        for (header, part) in cases {
            let error = file(header, &[0; 4]).unwrap_err().to_string();
            assert!(error.contains(part), "{header}: {error}");
        }
        assert!(raw(&[1, 2, 3]).unwrap_err().to_string().contains("3 bytes"));
        assert!(raw(&u64::MAX.to_le_bytes()).unwrap_err().to_string().contains("claims"));
    }
}
