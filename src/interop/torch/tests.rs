//! Files that torch wrote (`fuzz/corpus/torch`, by tools/reader-corpus.py), and files made to harm.

use std::path::Path;

use super::*;

fn corpus(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/torch");
    std::fs::read(folder.join(name)).unwrap()
}

fn failure(bytes: &[u8]) -> String {
    match Contents::read(bytes) {
        Err(error) => format!("{error:#}"),
        Ok(contents) => {
            let error = contents.names().find_map(|name| contents.values(bytes, name).err());
            format!("{:#}", error.expect("should be refused"))
        }
    }
}

#[test]
fn what_torch_wrote_is_read() {
    for name in ["archive.bin", "legacy.bin"] {
        let bytes = corpus(name);
        let contents = Contents::read(&bytes).unwrap();
        assert_eq!(contents.names().collect::<Vec<_>>(), ["a", "b", "c"], "{name}");
        let values = |name: &str| contents.values(&bytes, name).unwrap();
        assert_eq!(values("a"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
        assert_eq!(values("b"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
        // A transposed view of the first.
        assert_eq!(contents.tensors["c"].shape, [3, 2], "{name}");
        assert_eq!(values("c"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0], "{name}");
    }
    let bytes = corpus("module.bin");
    let contents = Contents::read(&bytes).unwrap();
    assert_eq!(contents.values(&bytes, "weight").unwrap(), [1.0, 2.0]);
    let bytes = corpus("parameter.bin");
    assert_eq!(Contents::read(&bytes).unwrap().values(&bytes, "p").unwrap(), [0.0, 1.0, 2.0]);
}

#[test]
fn what_is_no_parameter_is_refused_by_name() {
    assert!(failure(&corpus("function.bin")).contains("gelu, which a dictionary of tensors does not need"));
    assert!(failure(&corpus("integer.bin")).contains("tensor n: holds no floats"));
    let mut bytes = corpus("archive.bin");
    let place = bytes.windows(8).position(|window| window == [0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
    bytes[place] = 1;
    assert!(failure(&bytes).contains("tensor a: damaged"));
    assert!(failure(b"not a model").contains("neither a zip archive nor the older format"));
    assert!(failure(&corpus("archive.bin")[..900]).contains("no end of a directory"));
    let legacy = corpus("legacy.bin");
    assert!(failure(&legacy[..legacy.len() - 3]).contains("is cut off within the storages"));
}

/// Pickles that are small and ask for much: an error, without the memory or the time that they ask for.
#[test]
fn pickles_that_are_made_to_harm_are_refused() {
    let refused = |program: &[u8]| format!("{:#}", pickle::read(program).unwrap_err());
    let cases: [(&[u8], &str); 9] = [
        (b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", "mentions os.system"),
        (b"cbuiltins\neval\n.", "mentions builtins.eval"),
        (b"X\xff\xff\xff\xffab.", "is cut off"),
        (b"i", "opcode 0x69"),
        (b"R", "empty stack"),
        (b"(0", "empty stack"),
        (b"h\x07", "value 7 was not kept"),
        (b"\x80\x00", "protocol 0"),
        (b"K\x01K\x02s", "empty stack"),
    ];
    for (program, words) in cases {
        let error = refused(program);
        assert!(error.contains(words), "{}: {error}", String::from_utf8_lossy(program));
    }
    // A list that holds itself is one value.
    let (pickled, length) = pickle::read(b"]q\x00h\x00a.").unwrap();
    assert_eq!((pickled.root(), length), (&Value::List(vec![0]), 7));
    // Doubled twenty million times by references, it would be endless; here each is a number.
    let many = b")".repeat((1 << 20) + 2);
    assert!(refused(&many).contains("more than 131072 values"));
    // Marks, and one value kept under number after number.
    for endless in [b"(", b"\x94"] {
        let program = [b")".to_vec(), endless.repeat(2 << 20)].concat();
        assert!(refused(&program).contains("more than 1048576 opcodes"));
    }
    // A name of a megabyte that a short program would copy into as many storages as it likes.
    let long = [b"X\x00\x00\x10\x00".to_vec(), b"k".repeat(1 << 20)].concat();
    assert!(refused(&long).contains("a text of 1048576 bytes is no name"));
}

#[test]
fn views_out_of_their_storage_are_refused() {
    let storage =
        values::Storage { stored: super::super::tensors::Stored::F32, key: "0".into(), elements: 6 };
    let view = |offset, shape: &[usize], strides: &[usize]| {
        let tensor =
            Tensor { storage: storage.clone(), offset, shape: shape.to_vec(), strides: strides.to_vec() };
        check(&tensor, 24)
    };
    view(0, &[2, 3], &[3, 1]).unwrap();
    view(0, &[3, 2], &[1, 3]).unwrap();
    view(6, &[0, 3], &[3, 1]).unwrap();
    // A single element, seen a million times over.
    let cases: [(usize, &[usize], &[usize]); 6] = [
        (0, &[1_000_000], &[0]),
        (1, &[2, 3], &[3, 1]),
        (0, &[2, 3], &[usize::MAX, 1]),
        (usize::MAX, &[1], &[1]),
        (0, &[usize::MAX, 2], &[1, 1]),
        (0, &[2, 3], &[1]),
    ];
    for (offset, shape, strides) in cases {
        assert!(view(offset, shape, strides).is_err(), "{offset} {shape:?} {strides:?}");
    }
    assert!(check(&Tensor { storage, offset: 0, shape: vec![1], strides: vec![1] }, 20).is_err());
}

/// A file of the older format with one storage of 1024 numbers that so many tensors look into.
fn sharing(tensors: usize) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let mut file = [b"\x80\x02\x8a\x0a", &MAGIC[..], b".\x80\x02M\xe9\x03.\x80\x02}"].concat();
    file.extend([&text("little_endian")[..], b"\x88s.\x80\x02}("].concat());
    file.extend([&text("0")[..], b"ctorch._utils\n_rebuild_tensor_v2\n((", &text("storage")].concat());
    file.extend([b"ctorch\nFloatStorage\n", &text("0")[..], &text("cpu"), b"M\x00\x04NtQK\x00"].concat());
    file.extend(b"M\x00\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRq\x02");
    (1..tensors).for_each(|number| file.extend([&text(&number.to_string())[..], b"h\x02"].concat()));
    file.extend([b"u.\x80\x02](", &text("0")[..], b"e."].concat());
    file.extend(1024i64.to_le_bytes());
    file.extend([0; 4096]);
    file
}

#[test]
fn storages_that_thousands_of_tensors_share_are_refused() {
    assert_eq!(Contents::read(&sharing(3)).unwrap().names().count(), 3);
    assert!(failure(&sharing(100)).contains("more than 4 times as large as the file"));
}

/// Members that share their bytes would make a small file unfold into a large one.
#[test]
fn archives_that_are_made_to_harm_are_refused() {
    let bytes = corpus("archive.bin");
    let members = zip::directory(&bytes).unwrap();
    assert!(members.contains_key("archive/data.pkl"), "{:?}", members.keys());
    let central: Vec<usize> =
        (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"PK\x01\x02")).collect();
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        format!("{:#}", zip::directory(&bytes).unwrap_err())
    };
    assert!(changed(central[0] + 10, &[8, 0]).contains("is compressed"));
    assert!(changed(central[0] + 8, &[1, 0]).contains("is encrypted"));
    assert!(changed(central[0] + 24, &[255, 255, 255, 127]).contains("long"));
    assert!(changed(central[0] + 42, &[255, 255, 255, 127]).contains("out of place"));
    let first = bytes[central[0] + 42..central[0] + 46].to_vec();
    assert!(changed(central[1] + 42, &first).contains("overlap"));
}
