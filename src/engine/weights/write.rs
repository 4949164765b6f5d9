//! safetensors files, written whole or not at all.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::engine::error::{Error, Result};

/// The bytes of a safetensors file: tensors by name in f32 (f64 and f16 stay what they are), and text about them.
pub fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    about: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !about.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(about));
    }
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        let flat = tensor.detach().flatten_all()?;
        let dtype = if tensor.dtype() == DType::F64 {
            flat.to_vec1::<f64>()?.iter().for_each(|v| data.extend(v.to_le_bytes()));
            "F64"
        } else if tensor.dtype() == DType::F16 {
            flat.to_vec1::<half::f16>()?.iter().for_each(|v| data.extend(v.to_le_bytes()));
            "F16"
        } else {
            flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().for_each(|v| data.extend(v.to_le_bytes()));
            "F32"
        };
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, data.len()] });
        header.insert(name.to_string(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The data begins at a multiple of eight bytes.
    header.push_str(&" ".repeat((8 - header.len() % 8) % 8));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.reserve_exact(header.len() + data.len());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    Ok(bytes)
}

/// Writes a file under another name and gives it its own when all of it is on the disk: what stood there before stays
/// whole until then. Errors: no space, no permission.
pub fn replace(op: &str, path: &Path, bytes: &[u8]) -> Result<()> {
    let bad = |e: std::io::Error| {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        Error::file(op, path, format!("cannot be written: {e}")).hint(match e.kind() {
            StorageFull | QuotaExceeded => "the disk is full: make room; what stood there before is whole",
            FileTooLarge => {
                "files may not grow this large here (ulimit -f); what stood there before is whole"
            }
            _ => "is the disk full, or read-only?",
        })
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".scumble-");
    #[cfg(unix)]
    {
        // As any new file; the user's mask takes away what it does.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(bad)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(bad)?;
    file.persist(path).map_err(|e| bad(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::read::TensorFile;
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let a = Tensor::new(&[[1.5f32, -2.0, 1e-30]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[0.1f64], &Device::Cpu).unwrap();
        let about = BTreeMap::from([("made".to_string(), "here \"so\"".to_string())]);
        replace("save", &path, &encode([("a", &a), ("b", &b)], &about).unwrap()).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.metadata().get("made"), about.get("made"));
        let back = file.read("a", DType::F32, &Device::Cpu).unwrap().unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), a.to_vec2::<f32>().unwrap());
        let back = file.read("b", DType::F64, &Device::Cpu).unwrap().unwrap();
        assert_eq!(back.to_vec1::<f64>().unwrap(), [0.1]);
        assert!(replace("save", &dir.path().join("no/such/folder"), b"x").is_err());
    }
}
