//! The GGUF reader against files the writer made: whole ones, every kind of broken one, and broken ones nobody thought of.

use std::path::PathBuf;

use candle_core::Device;
use kernels::{GgmlType, KvDtype};
use models::gguf::writer::{Entry, GgufWriter};
use models::gguf::{Array, Value, ValueType};
use models::testing::tiny_gguf;
use models::{Family, Gguf, MemoryEstimate, StepSize};
use proptest::prelude::*;

fn open(bytes: Vec<u8>) -> Result<Gguf, models::GgufError> {
    Gguf::from_bytes(bytes.into(), "model.gguf")
}

/// What the reader says of a file it must refuse.
fn refusal(bytes: Vec<u8>) -> String {
    open(bytes).expect_err("a broken file").to_string()
}

/// A small file with some of everything.
fn sample() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama").set("llama.block_count", 2u32).set("llama.rope.freq_base", 1e4f32);
    writer.set("tokenizer.ggml.tokens", vec!["<s>", "▁the", ""]).set("tokenizer.ggml.scores", vec![0.0f32, -1.5, 2.0]);
    writer.tensor_f32("output_norm.weight", &[4], &[1.0, 2.0, 3.0, 4.0]);
    writer.tensor("token_embd.weight", GgmlType::Q8_0, &[32, 3], (0..102).collect());
    writer.tensor_f32("blk.0.attn_norm.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    writer
}

#[test]
fn what_was_written_is_read() {
    for version in [2, 3] {
        let mut writer = sample();
        let gguf = open(writer.version(version).to_bytes()).expect("a sound file");
        assert_eq!((gguf.version(), gguf.name()), (version, "model.gguf"));
        assert_eq!(gguf.require::<&str>("general.architecture").expect("there"), "llama");
        assert_eq!(gguf.require::<usize>("llama.block_count").expect("there"), 2);
        assert_eq!(gguf.get::<u32>("llama.no_such_key").expect("absent is no error"), None);
        let names: Vec<&str> = gguf.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["output_norm.weight", "token_embd.weight", "blk.0.attn_norm.weight"]);
        let norm = gguf.dense_f32("output_norm.weight", &Device::Cpu).expect("there");
        assert_eq!(norm.to_vec1::<f32>().expect("f32"), [1.0, 2.0, 3.0, 4.0]);
        let rows = gguf.dense_f32("blk.0.attn_norm.weight", &Device::Cpu).expect("there");
        assert_eq!(rows.to_vec2::<f32>().expect("f32"), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        let embedding = gguf.weight("token_embd.weight", &Device::Cpu).expect("there");
        assert_eq!((embedding.rows(), embedding.cols(), embedding.ggml_type()), (3, 32, GgmlType::Q8_0));
        assert_eq!(embedding.bytes().as_slice(), (0..102).collect::<Vec<u8>>());
        assert_eq!(gguf.tensor_bytes(), 16 + 102 + 24);
    }
}

#[test]
fn all_thirteen_kinds_of_value_are_read() {
    let mut writer = GgufWriter::new();
    writer.set("u8", u8::MAX).set("i8", i8::MIN).set("u16", u16::MAX).set("i16", i16::MIN).set("u32", u32::MAX).set("i32", i32::MIN);
    writer.set("u64", u64::MAX).set("i64", i64::MIN).set("f32", f32::MIN).set("f64", f64::MAX).set("bool", true).set("string", "ß🙂\0");
    writer.set("array", Entry::Array(9, vec![vec![1u8, 2].into(), vec!["a", ""].into(), Entry::Array(12, vec![])]));
    let gguf = open(writer.to_bytes()).expect("a sound file");
    let wanted = [
        ("u8", Value::U8(u8::MAX)),
        ("i8", Value::I8(i8::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(f32::MIN)),
        ("f64", Value::F64(f64::MAX)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("ß🙂\0".to_owned())),
    ];
    for (key, value) in wanted {
        assert_eq!(gguf.value(key), Some(&value), "{key}");
    }
    let nested = gguf.require::<&Array>("array").expect("there");
    assert_eq!((nested.len(), nested.element()), (3, ValueType::Array));
    let Some(Value::Array(numbers)) = nested.get(0) else { panic!("an array") };
    assert_eq!(numbers.to_i64s(), Some(vec![1, 2]));
    let Some(Value::Array(strings)) = nested.get(1) else { panic!("an array") };
    assert_eq!(strings.strings().collect::<Vec<_>>(), [b"a".as_slice(), b""]);
    assert!(matches!(nested.get(2), Some(Value::Array(empty)) if empty.is_empty()));
    assert_eq!(nested.get(3), None);
    assert_eq!(gguf.metadata().count(), 13);
}

#[test]
fn numbers_convert_where_they_fit_and_nowhere_else() {
    let mut writer = GgufWriter::new();
    writer.set("small", 7u64).set("negative", -1i32).set("real", 0.5f32).set("text", "7");
    let gguf = open(writer.to_bytes()).expect("a sound file");
    assert_eq!(gguf.require::<u16>("small").expect("fits"), 7);
    assert_eq!(gguf.require::<f32>("small").expect("fits"), 7.0);
    assert_eq!(gguf.require::<i64>("negative").expect("fits"), -1);
    assert_eq!(gguf.require::<f64>("real").expect("fits"), 0.5);
    let wrong = |result: Result<u32, models::GgufError>| result.expect_err("does not fit").to_string();
    assert_eq!(wrong(gguf.require("negative")), r#"model.gguf: metadata key "negative" has the wrong type: u32 wanted, i32 -1 found"#);
    assert_eq!(wrong(gguf.require("real")), r#"model.gguf: metadata key "real" has the wrong type: u32 wanted, f32 0.5 found"#);
    assert_eq!(wrong(gguf.require("text")), r#"model.gguf: metadata key "text" has the wrong type: u32 wanted, string found"#);
    assert_eq!(wrong(gguf.require("llama.block_count")), r#"model.gguf: metadata key "llama.block_count" is missing"#);
}

#[test]
fn a_string_that_is_not_utf8_is_an_error_only_for_who_reads_it() {
    let mut writer = GgufWriter::new();
    writer.set("general.author", Entry::String(vec![b'J', 0xff])).set("general.architecture", "llama");
    let gguf = open(writer.to_bytes()).expect("the rest is sound");
    assert_eq!(gguf.require::<&str>("general.architecture").expect("there"), "llama");
    let error = gguf.require::<&str>("general.author").expect_err("not UTF-8").to_string();
    assert_eq!(error, r#"model.gguf: metadata key "general.author" has the wrong type: string wanted, string that is not UTF-8 found"#);
}

#[test]
fn other_files_are_told_apart() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "it is empty"),
        (b"GGU", "does not start with the letters GGUF"),
        (b"PK\x03\x04whatever", "zip archive"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{\"__metadata__\"", "safetensors"),
        (b"\n<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"{\"error\":\"not found\"}", "JSON"),
        (b"ggjt\x03\0\0\0", "GGML file from before"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (&[0; 64], "starts with zeros"),
        (b"FUGG\x03\0\0\0", "big-endian"),
    ];
    for (bytes, hint) in cases {
        let error = refusal(bytes.to_vec());
        assert!(error.starts_with("model.gguf: is not a GGUF file") && error.contains(hint), "{error}");
    }
}

#[test]
fn other_versions_and_byte_orders_are_refused() {
    let mut writer = sample();
    assert_eq!(refusal(writer.version(1).to_bytes()), "model.gguf: has GGUF version 1; versions 2 and 3 can be read");
    assert_eq!(refusal(writer.version(4).to_bytes()), "model.gguf: has GGUF version 4; versions 2 and 3 can be read");
    let error = refusal(writer.version(3u32.swap_bytes()).to_bytes());
    assert!(error.contains("big-endian GGUF file"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sample().to_bytes();
    // The last tensor is padded to 32 bytes and needs only 24 of them.
    for len in 0..bytes.len() - 8 {
        let error = refusal(bytes[..len].to_vec());
        assert!(error.starts_with("model.gguf: "), "{error}");
        if len >= 8 {
            let told = ["is cut off", "more than the rest of the file can", "lies outside the file"];
            assert!(told.iter().any(|words| error.contains(words)), "cut at {len}: {error}");
        }
    }
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    let header = |tensors: u64, keys: u64| [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat();
    assert!(refusal(header(0, u64::MAX)).contains("the metadata would hold 18446744073709551615 entries"));
    assert!(refusal(header(1 << 60, 0)).contains("the tensor table would hold 1152921504606846976 entries"));
    let key = |ty: u32| [header(0, 1), 1u64.to_le_bytes().to_vec(), b"k".to_vec(), ty.to_le_bytes().to_vec()].concat();
    let string = [key(8), (1u64 << 60).to_le_bytes().to_vec()].concat();
    assert!(refusal(string).contains(r#"metadata key "k" needs 1152921504606846976 bytes"#));
    for element in [0u32, 8, 9, 12] {
        let array = [key(9), element.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
        assert!(refusal(array).contains(r#"metadata key "k" would hold 18446744073709551615 entries"#));
    }
    assert!(refusal(key(13)).contains(r#"metadata key "k" has the unknown value type 13"#));
    let key_name = [header(0, 1), u64::MAX.to_le_bytes().to_vec(), vec![0; 32]].concat();
    assert!(refusal(key_name).contains("metadata key number 1 needs 18446744073709551615 bytes"));
}

#[test]
fn arrays_nested_too_deeply_are_refused() {
    let mut writer = GgufWriter::new();
    writer.set("deep", 1u8);
    // Ten thousand headers of "an array of one array".
    let mut bytes = writer.to_bytes();
    bytes.truncate(24 + 8 + 4);
    bytes.extend(9u32.to_le_bytes());
    for _ in 0..10_000 {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
    }
    assert_eq!(refusal(bytes), r#"model.gguf: metadata key "deep" nests arrays too deeply"#);
}

#[test]
fn keys_and_tensors_appear_once() {
    let mut bytes = GgufWriter::new().set("ab", 1u8).set("cd", 2u8).to_bytes();
    let second = bytes.windows(2).position(|two| two == b"cd").expect("the key");
    bytes[second..second + 2].copy_from_slice(b"ab");
    assert_eq!(refusal(bytes), r#"model.gguf: metadata key "ab" appears twice"#);
    let mut writer = GgufWriter::new();
    writer.tensor_f32("x", &[1], &[1.0]).tensor_f32("x", &[1], &[1.0]);
    assert_eq!(refusal(writer.to_bytes()), r#"model.gguf: tensor "x" appears twice"#);
}

/// A file with one good tensor and one of which anything can be said.
fn with_tensor(type_number: u32, shape: &[u64], bytes: usize, offset: Option<u64>) -> String {
    let mut writer = GgufWriter::new();
    writer.tensor_f32("good", &[8], &[0.0; 8]);
    writer.tensor_unchecked("bad", type_number, shape, vec![0; bytes], offset);
    refusal(writer.to_bytes())
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    assert_eq!(with_tensor(0, &[], 0, None), r#"model.gguf: tensor "bad" has 0 dimensions; 1 to 4 are possible"#);
    assert_eq!(with_tensor(0, &[1; 5], 4, None), r#"model.gguf: tensor "bad" has 5 dimensions; 1 to 4 are possible"#);
    assert_eq!(with_tensor(0, &[4, 0], 0, None), r#"model.gguf: tensor "bad" has a dimension of size 0 (shape [4, 0])"#);
    assert_eq!(
        with_tensor(0, &[1 << 60], 4, None),
        r#"model.gguf: tensor "bad" lies outside the file: it needs 4611686018427387904 bytes at offset 32 of the tensor data, which has 64; the download may be incomplete"#
    );
    for shape in [&[1 << 40, 1 << 40][..], &[u64::MAX], &[1 << 62, 1]] {
        let error = with_tensor(0, shape, 4, None);
        assert!(error.contains(r#"tensor "bad" has the impossible shape"#), "{error}");
    }
    assert_eq!(
        with_tensor(8, &[33], 34, None),
        r#"model.gguf: tensor "bad" has rows of 33 elements, not a multiple of the Q8_0 block of 32"#
    );
    let unknown = with_tensor(4242, &[32], 34, None);
    assert_eq!(unknown, r#"model.gguf: tensor "bad" has the unknown ggml type 4242; a newer version of this program may know it"#);
}

#[test]
fn lying_offsets_are_refused_by_name() {
    assert_eq!(with_tensor(0, &[8], 32, Some(33)), r#"model.gguf: tensor "bad" has offset 33, not a multiple of the alignment 32"#);
    assert_eq!(with_tensor(0, &[8], 32, Some(0)), r#"model.gguf: tensors "good" and "bad" overlap"#);
    for offset in [64, 1 << 50, u64::MAX - 31] {
        let error = with_tensor(0, &[8], 32, Some(offset));
        assert!(error.contains(r#"tensor "bad" lies outside the file"#), "{error}");
    }
}

#[test]
fn the_alignment_is_honoured() {
    for alignment in [1, 8, 64, 4096] {
        let mut writer = GgufWriter::new();
        writer.alignment(alignment).tensor_f32("a", &[3], &[1.0, 2.0, 3.0]).tensor_f32("b", &[1], &[4.0]);
        let gguf = open(writer.to_bytes()).expect("a sound file");
        assert_eq!(gguf.dense_f32("b", &Device::Cpu).expect("there").to_vec1::<f32>().expect("f32"), [4.0]);
    }
    for wrong in [0u32, 24, u32::MAX] {
        let error = refusal(GgufWriter::new().set("general.alignment", wrong).to_bytes());
        assert_eq!(error, format!(r#"model.gguf: metadata key "general.alignment" is u32 {wrong}: a power of two wanted"#));
    }
    let error = refusal(GgufWriter::new().set("general.alignment", "32").to_bytes());
    assert_eq!(error, r#"model.gguf: metadata key "general.alignment" has the wrong type: u32 wanted, string found"#);
}

#[test]
fn a_type_that_cannot_be_computed_is_refused_when_it_is_asked_for() {
    let mut writer = sample();
    writer.tensor("blk.0.ffn_up.weight", GgmlType::NVFP4, &[256, 2], vec![0; 288]);
    let gguf = open(writer.to_bytes()).expect("the file is sound");
    assert_eq!(gguf.tensor("blk.0.ffn_up.weight").expect("there").ty, GgmlType::NVFP4);
    let error = gguf.weight("blk.0.ffn_up.weight", &Device::Cpu).expect_err("cannot be computed").to_string();
    assert_eq!(error, r#"model.gguf: tensor "blk.0.ffn_up.weight": a NVFP4 weight cannot be computed here"#);
    let error = gguf.dense_f32("blk.0.ffn_up.weight", &Device::Cpu).expect_err("cannot be computed").to_string();
    assert_eq!(error, r#"model.gguf: tensor "blk.0.ffn_up.weight": a NVFP4 weight cannot be computed here"#);
    gguf.weight("token_embd.weight", &Device::Cpu).expect("the others can");
}

#[test]
fn absent_tensors_and_wrong_dimensions_are_named() {
    let gguf = open(sample().to_bytes()).expect("a sound file");
    let error = gguf.weight("output.weight", &Device::Cpu).expect_err("absent").to_string();
    assert_eq!(error, r#"model.gguf: tensor "output.weight" is missing"#);
    let error = gguf.weight("output_norm.weight", &Device::Cpu).expect_err("a vector").to_string();
    assert_eq!(error, r#"model.gguf: tensor "output_norm.weight" has 1 dimensions, 2 wanted"#);
    assert!(gguf.find_tensor("output.weight").is_none());
}

#[test]
fn every_computed_type_becomes_f32() {
    let values: Vec<f32> = (0..512).map(|index| (index as f32 - 256.0) / 64.0).collect();
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| kernels::quantize::can_quantize(*ty)) {
        let bytes = kernels::quantize::quantize(ty, &values).expect("whole blocks");
        let gguf = open(GgufWriter::new().tensor("w", ty, &[256, 2], bytes).to_bytes()).expect("a sound file");
        let dense = gguf.dense_f32("w", &Device::Cpu).expect("computed");
        assert_eq!(dense.dims(), [2, 256]);
        let back = dense.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("f32");
        let error = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 0.6, "{ty}: {error}");
    }
}

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("understudy-gguf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn write(&self, name: &str, writer: &GgufWriter) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, writer.to_bytes()).expect("written");
        path
    }

    fn refusal(&self, name: &str) -> String {
        let error = Gguf::open(&self.0.join(name)).expect_err("a broken model").to_string();
        error.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Part `number` (from 0) of `count`, with one tensor.
fn part(number: u16, count: u16, tensors: i32) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.set("split.no", number).set("split.count", count).set("split.tensors.count", tensors);
    if number == 0 {
        writer.set("general.architecture", "llama");
    }
    writer.tensor_f32(&format!("blk.{number}.weight"), &[2], &[f32::from(number); 2]);
    writer
}

#[test]
fn a_file_is_mapped() {
    let folder = Folder::new("mapped");
    let path = folder.write("a.gguf", &sample());
    let gguf = Gguf::open(&path).expect("a sound file");
    assert_eq!(gguf.file_bytes(), std::fs::metadata(&path).expect("there").len());
    assert_eq!(gguf.name(), path.display().to_string());
    gguf.weight("token_embd.weight", &Device::Cpu).expect("there");
    assert!(folder.refusal("b.gguf").starts_with("b.gguf: cannot be opened: "));
    assert!(Gguf::open(&folder.0).expect_err("a folder").to_string().contains("cannot be opened: it is a directory"));
    std::fs::write(folder.0.join("empty.gguf"), []).expect("written");
    assert_eq!(folder.refusal("empty.gguf"), "empty.gguf: is not a GGUF file (it is empty)");
}

#[test]
fn all_parts_of_a_split_model_are_opened_from_any_of_them() {
    let folder = Folder::new("split");
    for number in 0..3 {
        folder.write(&format!("m-{:05}-of-00003.gguf", number + 1), &part(number, 3, 3));
    }
    for number in 1..=3 {
        let gguf = Gguf::open(&folder.0.join(format!("m-{number:05}-of-00003.gguf"))).expect("a sound model");
        assert_eq!(gguf.require::<&str>("general.architecture").expect("of the first part"), "llama");
        assert_eq!(gguf.tensors().len(), 3);
        let last = gguf.dense_f32("blk.2.weight", &Device::Cpu).expect("of the last part");
        assert_eq!(last.to_vec1::<f32>().expect("f32"), [2.0, 2.0]);
        assert_eq!(gguf.tensor_bytes(), 24);
    }
}

#[test]
fn copied_weights_are_the_same_bytes_elsewhere() {
    let folder = Folder::new("copied");
    for number in 0..3 {
        folder.write(&format!("m-{:05}-of-00003.gguf", number + 1), &part(number, 3, 3));
    }
    let split = Gguf::open(&folder.0.join("m-00001-of-00003.gguf")).expect("a sound model");
    let one = Gguf::open(&folder.write("a.gguf", &sample())).expect("a sound file");
    let in_memory = open(sample().to_bytes()).expect("a sound file");
    for mut gguf in [split, one, in_memory] {
        let before: Vec<(*const u8, Vec<u8>)> =
            gguf.tensors().iter().map(|tensor| (tensor.bytes().as_slice().as_ptr(), tensor.bytes().as_slice().to_vec())).collect();
        let copied = gguf.copy_weights().expect("memory");
        assert!(copied.bytes >= gguf.tensor_bytes() && copied.huge_bytes <= copied.bytes, "{copied:?}");
        for (tensor, (place, bytes)) in gguf.tensors().iter().zip(before) {
            let copy = tensor.bytes().as_slice();
            assert!(copy == bytes && copy.as_ptr() != place && (copy.as_ptr() as usize).is_multiple_of(64), "{}", tensor.name);
        }
        // Metadata still lies in the file.
        if let Some(tokens) = gguf.get::<&Array>("tokenizer.ggml.tokens").expect("an array") {
            assert_eq!(tokens.strings().collect::<Vec<_>>(), ["<s>".as_bytes(), "▁the".as_bytes(), b""]);
        }
    }
}

#[test]
fn split_models_that_do_not_fit_together_are_refused() {
    let folder = Folder::new("unfit");
    folder.write("m-00001-of-00002.gguf", &part(0, 2, 2));
    let missing = folder.refusal("m-00001-of-00002.gguf");
    assert!(missing.starts_with("m-00002-of-00002.gguf: part 2 of 2 of the model is missing"), "{missing}");

    folder.write("m-00002-of-00002.gguf", &part(0, 2, 2));
    assert_eq!(
        folder.refusal("m-00001-of-00002.gguf"),
        "m-00002-of-00002.gguf: says it is part 1 of the split model, 2 wanted from its name"
    );
    folder.write("m-00002-of-00002.gguf", &part(1, 3, 2));
    assert_eq!(folder.refusal("m-00001-of-00002.gguf"), "m-00002-of-00002.gguf: says the model has 3 parts, the first part says 2");
    folder.write("m-00002-of-00002.gguf", &sample());
    assert_eq!(folder.refusal("m-00001-of-00002.gguf"), "m-00002-of-00002.gguf: says the model has 1 parts, the first part says 2");
    let mut same_tensor = part(1, 2, 2);
    folder.write("m-00002-of-00002.gguf", same_tensor.tensor_f32("blk.0.weight", &[1], &[0.0]));
    assert_eq!(folder.refusal("m-00001-of-00002.gguf"), r#"m-00002-of-00002.gguf: tensor "blk.0.weight" appears twice"#);
    folder.write("m-00002-of-00002.gguf", part(1, 2, 2).unset("split.no"));
    assert_eq!(folder.refusal("m-00001-of-00002.gguf"), r#"m-00002-of-00002.gguf: metadata key "split.no" is missing"#);

    folder.write("m-00002-of-00002.gguf", part(1, 2, 2).set("split.no", u64::MAX));
    assert!(folder.refusal("m-00001-of-00002.gguf").ends_with("2 wanted from its name"));

    folder.write("m-00002-of-00002.gguf", &part(1, 2, 2));
    folder.write("m-00001-of-00002.gguf", &part(0, 2, 7));
    assert_eq!(folder.refusal("m-00001-of-00002.gguf"), "m-00001-of-00002.gguf: the parts of the model hold 2 tensors, 7 wanted");
    folder.write("renamed.gguf", &part(0, 2, 2));
    assert!(folder.refusal("renamed.gguf").contains("must be named NAME-00001-of-00002.gguf"));
    assert_eq!(refusal(part(0, 2, 2).to_bytes()), "model.gguf: is one part of a split model of 2; a model in memory must be whole");
}

/// Looks at everything a file holds: what the reader accepted must be usable to the last byte.
fn use_all(gguf: &Gguf) {
    fn walk(value: &Value) {
        if let Value::Array(array) = value {
            (0..array.len()).for_each(|index| walk(&array.get(index).expect("below len")));
            array.strings().for_each(|string| assert!(string.len() < 1 << 20));
        }
    }
    gguf.metadata().for_each(|(_, value)| walk(value));
    for tensor in gguf.tensors() {
        assert!(!tensor.bytes().as_slice().is_empty());
        let _ = gguf.weight(&tensor.name, &Device::Cpu);
        if tensor.ty.is_computed() {
            gguf.dense_f32(&tensor.name, &Device::Cpu).expect("computed types can be unpacked");
        }
    }
}

/// A few bytes of a sound file changed, moved or cut.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Number { at: prop::sample::Index, value: u64, len: usize },
    Cut(prop::sample::Index),
    Splice { from: prop::sample::Index, to: prop::sample::Index, len: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let numbers = prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(1 << 60), Just(1 << 31), Just(0x7fff_ffff_ffff_ffff), any::<u64>()];
    let lens = prop_oneof![Just(1usize), Just(4), Just(8)];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        4 => (any::<prop::sample::Index>(), numbers, lens).prop_map(|(at, value, len)| Damage::Number { at, value, len }),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..200usize).prop_map(|(from, to, len)| Damage::Splice { from, to, len }),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip { at, bit } => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Number { at, value, len } => {
                let at = at.index(bytes.len());
                let end = (at + len).min(bytes.len());
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Splice { from, to, len } => {
                let from = from.index(bytes.len());
                let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                let to = to.index(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a file, it is read soundly or refused; never a panic, never memory for what it only claims to hold.
    #[test]
    fn a_damaged_file_is_read_or_refused(damages in prop::collection::vec(damage(), 1..6)) {
        let mut bytes = sample().to_bytes();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        if let Ok(gguf) = open(bytes) {
            use_all(&gguf);
        }
    }

    /// Bytes that were never a file, behind a sound header.
    #[test]
    fn noise_is_read_or_refused(noise in prop::collection::vec(any::<u8>(), 0..400), tensors in 0..4u64, keys in 0..4u64) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend(noise);
        if let Ok(gguf) = open(bytes) {
            use_all(&gguf);
        }
    }
}

/// A whole model's file, and how long it is before the first tensor's bytes.
fn model_file(family: Family) -> (Vec<u8>, usize) {
    let bytes = tiny_gguf(family, 3, GgmlType::Q8_0);
    let head = bytes.len() - open(bytes.clone()).expect("our own file").tensor_bytes() as usize;
    (bytes, head)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same for what stands above the reader: metadata and table of a whole model, damaged, give a tokenizer and a model or an error.
    #[test]
    fn a_damaged_model_is_loaded_or_refused(family in prop::sample::select(Family::ALL.to_vec()), damages in prop::collection::vec(damage(), 1..4)) {
        let (mut bytes, head) = model_file(family);
        let tensors = bytes.split_off(head);
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        bytes.extend(tensors);
        if let Ok(gguf) = open(bytes) {
            if let Ok(tokenizer) = models::Tokenizer::from_gguf(&gguf) {
                let _ = tokenizer.encode("Any text, \u{e4}\u{1f642}\0 too.", true);
            }
            let _ = MemoryEstimate::of(&gguf, KvDtype::F16, StepSize { tokens: 512, logit_rows: 8 });
            let _ = models::load(&gguf, &Device::Cpu);
        }
    }
}

/// The test above reaches what it is about: undamaged, the file is a tokenizer and a model.
#[test]
fn an_undamaged_model_is_loaded() {
    for family in Family::ALL {
        let gguf = open(model_file(family).0).expect("a sound file");
        models::Tokenizer::from_gguf(&gguf).expect("a tokenizer");
        models::load(&gguf, &Device::Cpu).expect("a model");
    }
}
