//! The GGUF reader against files the writer made, whole and broken.

use std::sync::Arc;

use candle_core::Device;
use kernels::{GgmlType, SharedBytes};
use models::Gguf;
use models::gguf::writer::GgufWriter;

fn open(bytes: Vec<u8>) -> Result<Gguf, models::GgufError> {
    Gguf::from_bytes(SharedBytes::new(Arc::new(bytes)), "model.gguf")
}

#[test]
fn what_was_written_is_read() {
    for version in [2, 3] {
        let mut writer = GgufWriter::new();
        writer.version(version).set("general.architecture", "llama").set("llama.block_count", 2u32);
        writer.tensor_f32("output_norm.weight", &[4], &[1.0, 2.0, 3.0, 4.0]);
        let gguf = open(writer.to_bytes()).expect("a sound file");
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.require::<&str>("general.architecture").expect("there"), "llama");
        assert_eq!(gguf.require::<usize>("llama.block_count").expect("there"), 2);
        let norm = gguf.dense_f32("output_norm.weight", &Device::Cpu).expect("there");
        assert_eq!(norm.to_vec1::<f32>().expect("f32"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(gguf.tensors()[0].ty, GgmlType::F32);
    }
}
