//! Vectors of texts: against Candle's own BERT and XLM-RoBERTa, alone and in company, from either kind of file, from decoders.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::{bert, xlm_roberta};
use kernels::ops::linear::linear;
use kernels::{GgmlType, KvDtype, SharedBytes};
use models::embedding::{self, EmbeddingModel, Gives, Sequence};
use models::testing::batch::logits_of;
use models::testing::random_model::{Mix, RandomModel};
use models::testing::tiny_encoder::{HIDDEN, POSITIONS, TinyEncoder};
use models::{Family, Gguf};

const DIFFERENCE_MAX: f32 = 1e-5;
const TEXTS: [&str; 6] =
    ["hello world", "", "The CAT sat!", "a much longer text of words that are cut in pieces 0123456789", "h\u{e9}llo [SEP] world", "?"];

/// A folder of its own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn of(encoder: TinyEncoder, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("understudy-embedding-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        encoder.save(&path);
        Self(path)
    }

    fn load(&self) -> EmbeddingModel {
        embedding::load(&self.0, &Device::Cpu).expect("a model we have written")
    }

    fn tensors(&self) -> VarBuilder<'static> {
        let bytes = std::fs::read(self.0.join("model.safetensors")).expect("a file we have written");
        VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).expect("Candle reads it")
    }

    /// Rewrites one of the files.
    fn edit(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.0.join(name);
        let mut value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file we have written")).expect("JSON");
        change(&mut value);
        std::fs::write(path, value.to_string()).expect("a folder that can be written");
    }

    fn error(&self) -> String {
        embedding::load(&self.0, &Device::Cpu).expect_err("this must be refused").to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vectors(model: &mut EmbeddingModel, sequences: &[Sequence]) -> Vec<Vec<f32>> {
    model.embedder.embed(sequences, &mut || ControlFlow::Continue(())).expect("sequences the model takes")
}

fn sequences(model: &EmbeddingModel) -> Vec<Sequence> {
    TEXTS.iter().map(|text| model.text.encode(text).expect("any text can be encoded")).collect()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let largest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= DIFFERENCE_MAX, "{largest} between {ours:?} and {theirs:?}");
}

fn row(ids: impl IntoIterator<Item = u32>) -> Tensor {
    let ids: Vec<u32> = ids.into_iter().collect();
    Tensor::new(&ids[..], &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("a tensor")
}

/// Ids and types as Candle wants them.
fn inputs(sequence: &Sequence) -> (Tensor, Tensor) {
    let types = (0..sequence.ids.len()).map(|index| u32::from(index >= sequence.second_from));
    (row(sequence.ids.iter().copied()), row(types))
}

fn mean(states: &Tensor) -> Vec<f32> {
    states.mean(1).and_then(|mean| mean.squeeze(0)?.to_vec1()).expect("states of one text")
}

fn candle_bert(encoder: TinyEncoder, tensors: VarBuilder<'_>) -> bert::BertModel {
    let config: bert::Config = serde_json::from_value(encoder.config()).expect("Candle knows our configuration");
    bert::BertModel::load(tensors, &config).expect("Candle loads our model")
}

#[test]
fn bert_is_candles_bert() {
    let encoder = TinyEncoder::bert(1);
    let folder = Folder::of(encoder, "oracle");
    let (mut model, theirs) = (folder.load(), candle_bert(encoder, folder.tensors()));
    assert_eq!((model.about.gives, model.about.tokens_max, model.embedder.width()), (Gives::Embedding, POSITIONS - 6, HIDDEN));
    let sequences = sequences(&model);
    for (vector, sequence) in vectors(&mut model, &sequences).iter().zip(&sequences) {
        let (ids, types) = inputs(sequence);
        assert_close(vector, &mean(&theirs.forward(&ids, &types, None).expect("a forward pass")));
    }
}

#[test]
fn xlm_roberta_is_candles() {
    let encoder = TinyEncoder { model_type: "xlm-roberta", ..TinyEncoder::bert(2) };
    let folder = Folder::of(encoder, "xlm");
    let mut model = folder.load();
    let config: xlm_roberta::Config = serde_json::from_value(encoder.config()).expect("Candle knows our configuration");
    let theirs = xlm_roberta::XLMRobertaModel::new(&config, folder.tensors()).expect("Candle loads our model");
    let sequences = sequences(&model);
    for (vector, sequence) in vectors(&mut model, &sequences).iter().zip(&sequences) {
        let (ids, types) = inputs(sequence);
        let mask = ids.ones_like().expect("a mask");
        let states = theirs.forward(&ids, &mask, &types, None, None, None).expect("a forward pass");
        assert_close(vector, &mean(&states));
    }
}

#[test]
fn a_cross_encoder_compares_two_texts() {
    let encoder = TinyEncoder { classifier: true, ..TinyEncoder::bert(3) };
    let folder = Folder::of(encoder, "cross");
    let mut model = folder.load();
    assert_eq!((model.about.gives, model.embedder.width()), (Gives::Relevance, 1));
    let tensors = folder.tensors();
    let theirs = candle_bert(encoder, tensors.pp("bert"));
    let pooler = candle_nn::linear(HIDDEN, HIDDEN, tensors.pp("bert.pooler.dense")).expect("a pooler");
    let classifier = candle_nn::linear(HIDDEN, 1, tensors.pp("classifier")).expect("a classifier");
    for (first, second) in [("the cat", "hello world"), ("hello", "")] {
        let sequence = model.text.encode_pair(first, second).expect("a pair can be encoded");
        assert!(sequence.second_from < sequence.ids.len(), "{sequence:?}");
        let (ids, types) = inputs(&sequence);
        let states = theirs.forward(&ids, &types, None).expect("a forward pass");
        let pooled = states.narrow(1, 0, 1).and_then(|first| pooler.forward(&first.squeeze(1)?)?.tanh()).expect("a pooled state");
        let score: Vec<f32> = classifier.forward(&pooled).and_then(|score| score.flatten_all()?.to_vec1()).expect("a score");
        assert_close(&vectors(&mut model, &[sequence])[0], &score);
    }
    // Another order is another question.
    let swapped = [("the cat", "hello"), ("hello", "the cat")].map(|(a, b)| model.text.encode_pair(a, b).expect("a pair"));
    let scores = vectors(&mut model, &swapped);
    assert_ne!(scores[0], scores[1]);
}

#[test]
fn a_vector_is_the_same_to_the_bit_in_any_company() {
    let folder = Folder::of(TinyEncoder::bert(4), "company");
    let mut model = folder.load();
    let mut sequences = sequences(&model);
    // More rows than one pack has.
    for copy in 0..40 {
        sequences.push(Sequence::single((0..copy + 1).map(|id| 4 + (id * 7 + copy) % 60).collect()));
    }
    let together = vectors(&mut model, &sequences);
    let backwards: Vec<Sequence> = sequences.iter().rev().cloned().collect();
    let backwards = vectors(&mut model, &backwards);
    for (index, sequence) in sequences.iter().enumerate() {
        let alone = vectors(&mut model, std::slice::from_ref(sequence));
        assert_eq!(together[index], alone[0], "text {index}");
        assert_eq!(backwards[sequences.len() - 1 - index], alone[0], "text {index}");
    }
}

#[test]
fn a_gguf_of_it_is_the_same_model() {
    let encoder = TinyEncoder::bert(5);
    let folder = Folder::of(encoder, "gguf");
    let path = folder.0.join("model.gguf");
    for (pooling, expected) in [(1, None), (2, Some(0)), (3, Some(usize::MAX))] {
        std::fs::write(&path, encoder.gguf(pooling).to_bytes()).expect("a folder that can be written");
        let mut theirs = embedding::load(&path, &Device::Cpu).expect("a GGUF we have written");
        let mut ours = folder.load();
        let sequences = sequences(&ours);
        // But for the name of a control token, all texts are the same tokens.
        assert_eq!(TEXTS.map(|text| theirs.text.encode(text).expect("any text can be encoded")).as_slice(), sequences);
        let vectors_of_gguf = vectors(&mut theirs, &sequences);
        match expected {
            None => assert_eq!(vectors_of_gguf, vectors(&mut ours, &sequences)),
            Some(at) => {
                let bert = candle_bert(encoder, folder.tensors());
                for (vector, sequence) in vectors_of_gguf.iter().zip(&sequences) {
                    let (ids, types) = inputs(sequence);
                    let states = bert.forward(&ids, &types, None).expect("a forward pass");
                    let row = at.min(sequence.ids.len() - 1);
                    let state: Vec<f32> = states.get(0).and_then(|rows| rows.get(row)?.to_vec1()).expect("a row");
                    assert_close(vector, &state);
                }
            }
        }
    }
    std::fs::write(&path, encoder.gguf(4).to_bytes()).expect("a folder that can be written");
    let error = embedding::load(&path, &Device::Cpu).expect_err("a way of pooling that is not known").to_string();
    assert!(error.contains("\"bert.pooling_type\" is 4"), "{error}");
}

#[test]
fn a_decoders_last_state_gives_its_logits() {
    for family in [Family::Qwen3, Family::Llama, Family::Qwen3Moe] {
        let bytes = RandomModel::tiny(family, Mix::All(GgmlType::F32), 6).writer().to_bytes();
        let gguf = Gguf::from_bytes(SharedBytes::from(bytes), "tiny.gguf").expect("our own file");
        let mut model = models::load(&gguf, &Device::Cpu).expect("our own model");
        let tokens: Vec<u32> = (0..75).map(|index| (index * 37 + 11) % 300).collect();
        let logits = logits_of(model.as_mut(), &tokens, 512, KvDtype::F32).expect("a forward pass");
        let mut embedder = model.embedder(embedding::Pooling::Last, 75).expect("decoders give vectors");
        let mut pauses = 0;
        let mut count = || {
            pauses += 1;
            ControlFlow::Continue(())
        };
        let vector = embedder.embed(&[Sequence::single(tokens.clone())], &mut count).expect("a forward pass").remove(0);
        assert_eq!(pauses, model.config().layers * 3, "75 rows are three pieces, in each layer");
        let head = match gguf.find_tensor("output.weight") {
            Some(_) => gguf.weight("output.weight", &Device::Cpu),
            None => gguf.weight("token_embd.weight", &Device::Cpu),
        };
        let x = Tensor::from_vec(vector, (1, model.config().hidden), &Device::Cpu).expect("a row");
        let product: Vec<f32> =
            linear(&x, &head.expect("an output layer"), None).and_then(|row| row.flatten_all()?.to_vec1()).expect("a product");
        assert_eq!(product, logits.row(74), "{family:?}");
        let error = embedder.embed(&[Sequence::single(vec![0; 76])], &mut || ControlFlow::Continue(())).expect_err("too long");
        assert_eq!(error.to_string(), "a sequence of 76 tokens; it must have 1 to 75");
        let error = embedder.embed(&[Sequence::single(tokens)], &mut || ControlFlow::Break(())).expect_err("nobody wants it");
        assert_eq!(error.to_string(), "interrupted");
    }
}

#[test]
fn a_gguf_of_a_decoder_pools_as_it_says() {
    let mut writer = RandomModel::tiny(Family::Qwen3, Mix::All(GgmlType::F32), 7).writer();
    writer.set("qwen3.pooling_type", 3u32);
    let folder = Folder::of(TinyEncoder::bert(7), "decoder");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, writer.to_bytes()).expect("a folder that can be written");
    let mut model = embedding::load(&path, &Device::Cpu).expect("our own file");
    let sequence = model.text.encode("hello world").expect("text");
    let gguf = Gguf::open(&path).expect("our own file");
    let chat = models::load(&gguf, &Device::Cpu).expect("our own model");
    let of = |pooling| {
        let mut embedder = chat.embedder(pooling, 100).expect("decoders give vectors");
        embedder.embed(std::slice::from_ref(&sequence), &mut || ControlFlow::Continue(())).expect("a forward pass")
    };
    let vector = vectors(&mut model, std::slice::from_ref(&sequence));
    assert_eq!(vector, of(embedding::Pooling::Last));
    assert_ne!(vector, of(embedding::Pooling::Mean));
}

#[test]
fn long_texts_are_cut_before_the_token_that_closes_them() {
    let model = Folder::of(TinyEncoder::bert(8), "cut").load();
    let whole = model.text.encode(TEXTS[3]).expect("text");
    assert!(whole.ids.len() > 20, "whatever the tokenizer's file says of cutting: {whole:?}");
    let cut = model.text.cut(whole.clone(), 10);
    assert_eq!(cut.ids[..9], whole.ids[..9]);
    assert_eq!((cut.ids.len(), cut.ids.last(), cut.second_from), (10, whole.ids.last(), 10));
    assert_eq!(model.text.cut(whole.clone(), 500), whole);
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let folder = Folder::of(TinyEncoder::bert(9), "refused");
    let mut model = folder.load();
    for (tokens, says) in [(0, "a sequence of 0 tokens; it must have 1 to 70"), (POSITIONS + 1, "a sequence of 71 tokens")] {
        let error = model.embedder.embed(&[Sequence::single(vec![5; tokens])], &mut || ControlFlow::Continue(())).expect_err("refused");
        assert!(error.to_string().starts_with(says), "{error}");
    }
    folder.edit("1_Pooling/config.json", |pooling| pooling["pooling_mode_cls_token"] = true.into());
    assert!(folder.error().ends_with("1_Pooling/config.json: asks for several ways of pooling at once"), "{}", folder.error());
    folder.edit("config.json", |config| config["intermediate_size"] = 96.into());
    folder.edit("1_Pooling/config.json", |pooling| pooling["pooling_mode_cls_token"] = false.into());
    assert!(
        folder.error().contains("\"encoder.layer.0.intermediate.dense.weight\" has the shape [80, 48], but config.json says [96, 48]"),
        "{}",
        folder.error()
    );
    folder.edit("config.json", |config| config["hidden_act"] = "relu".into());
    assert!(folder.error().contains("\"hidden_act\" is \"relu\""), "{}", folder.error());
    folder.edit("config.json", |config| config["model_type"] = "nomic_bert".into());
    assert!(folder.error().contains("\"nomic_bert\"; this build knows bert, roberta, xlm-roberta"), "{}", folder.error());
    std::fs::remove_file(folder.0.join("config.json")).expect("it is there");
    assert!(folder.error().ends_with("config.json: is missing"), "{}", folder.error());
    let error = embedding::load(&folder.0.join("nothing"), &Device::Cpu).expect_err("there is nothing").to_string();
    assert!(error.contains("neither a folder"), "{error}");
}
