//! Choosing a device: what is understood, and what a missing backend says.

use kernels::device::{DeviceChoice, DeviceError, open};

#[test]
fn choices_are_parsed() {
    for (text, choice) in [
        ("auto", DeviceChoice::Auto),
        ("cpu", DeviceChoice::Cpu),
        ("CUDA", DeviceChoice::Cuda(0)),
        ("cuda:3", DeviceChoice::Cuda(3)),
        ("Metal", DeviceChoice::Metal),
    ] {
        let parsed: DeviceChoice = text.parse().unwrap();
        assert_eq!(parsed, choice);
        assert_eq!(parsed.to_string().parse::<DeviceChoice>().unwrap(), choice);
    }
    for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999999999999", "cpu:0", " cpu"] {
        let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
        assert_eq!(error, format!("unknown device {text:?}: expected auto, cpu, cuda, cuda:N or metal"));
    }
}

#[test]
fn the_cpu_and_auto_always_open() {
    assert!(open(DeviceChoice::Cpu).unwrap().device.is_cpu());
    let auto = open(DeviceChoice::Auto).unwrap();
    let has_backend = cfg!(any(feature = "cuda", feature = "metal"));
    assert!(has_backend || (auto.device.is_cpu() && auto.passed_over.is_empty()));
    // With a backend built in, the CPU is taken only with a reason.
    assert!(!has_backend || !auto.device.is_cpu() || !auto.passed_over.is_empty());
}

#[test]
fn a_backend_that_was_not_built_names_its_feature() {
    if !cfg!(feature = "cuda") {
        let error = open(DeviceChoice::Cuda(0)).unwrap_err();
        assert!(matches!(error, DeviceError::NoCuda));
        assert_eq!(error.to_string(), "this build has no CUDA: build with --features cuda");
    }
    if !cfg!(feature = "metal") {
        let error = open(DeviceChoice::Metal).unwrap_err();
        assert!(matches!(error, DeviceError::NoMetal));
        assert_eq!(error.to_string(), "this build has no Metal: build with --features metal (on macOS)");
    }
}
