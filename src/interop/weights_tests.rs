//! Files that are made to harm.

use super::*;

/// What opening a file of this header and so many bytes of values says.
fn opened(header: &str, values: usize) -> Result<WeightFile> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    std::fs::write(&path, bytes)?;
    WeightFile::open(&path)
}

fn tensor(name: &str, shape: &str, from: usize, to: usize) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn headers_that_are_made_to_harm_are_refused() {
    let overlap = format!("{{{},{}}}", tensor("a", "2", 0, 8), tensor("b", "2", 4, 12));
    let hole = format!("{{{},{}}}", tensor("a", "1", 0, 4), tensor("b", "1", 8, 12));
    let huge = format!("{{{}}}", tensor("a", "4294967296,4294967296,2", 0, 8));
    let long = format!("{{{}}}", tensor("a", "1073741824", 0, 4_294_967_296));
    let backwards = format!("{{{}}}", tensor("a", "1", 4, 0));
    let nested = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let kind = r#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#;
    let negative = r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#;
    for header in [&overlap[..], &hole, &huge, &long, &backwards, &nested, kind, negative, "[]", ""] {
        let error = format!("{:#}", opened(header, 12).err().expect("should be refused"));
        assert!(error.contains("x.safetensors: not a whole safetensors file"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for length in [u64::MAX, 1 << 40, 1 << 20, 9] {
        std::fs::write(&path, [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert!(WeightFile::open(&path).is_err(), "{length}");
    }
    let file = opened(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8).unwrap();
    assert!(format!("{:#}", file.read("a").unwrap_err()).contains("is of type I64"));
    assert!(format!("{:#}", file.read("b").unwrap_err()).contains("lacks tensor b"));
}

/// With the header read anew for each of them this would take minutes.
#[test]
fn files_of_many_tensors_are_read_in_their_size() {
    let count = 100_000;
    let tensors: Vec<String> = (0..count).map(|n| tensor(&format!("t{n}"), "1", 4 * n, 4 * n + 4)).collect();
    let file = opened(&format!("{{{}}}", tensors.join(",")), 4 * count).unwrap();
    let began = std::time::Instant::now();
    assert!((0..count).all(|n| file.read(&format!("t{n}")).unwrap() == [0.0]));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
