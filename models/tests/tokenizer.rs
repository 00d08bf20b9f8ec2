//! The tokenizer and the detokenizer: against what `tokenizers` and `sentencepiece` made of the same vocabularies
//! (`fixtures/tokenizer.json`, written by tests/oracles/tokenizer_oracle.py), against hand-made vocabularies, and against broken ones.

use std::sync::{Arc, LazyLock};

use models::gguf::writer::{Entry, GgufWriter};
use models::{Detokenizer, Gguf, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::Value as Json;
use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE as CrateBpe, Vocab as CrateVocab};

static FIXTURE: LazyLock<Json> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixtures/tokenizer.json")).expect("the fixture is JSON"));

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

fn load(writer: &GgufWriter) -> Result<Tokenizer, TokenizerError> {
    let gguf = Gguf::from_bytes(writer.to_bytes().into(), "model.gguf").expect("a sound file");
    Tokenizer::from_gguf(&gguf)
}

fn refusal(writer: &GgufWriter) -> String {
    load(writer).expect_err("a broken vocabulary").to_string()
}

fn texts_of(json: &Json) -> Vec<&str> {
    json.as_array().expect("an array").iter().map(|text| text.as_str().expect("a string")).collect()
}

fn ids_of(json: &Json) -> Vec<u32> {
    json.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The fixture's vocabulary of byte-level BPE, cut into words as `pre` says.
fn fixture_bpe(pre: &str) -> GgufWriter {
    let bpe = &FIXTURE["bpe"];
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", pre);
    writer.set("tokenizer.ggml.tokens", texts_of(&bpe["tokens"])).set("tokenizer.ggml.merges", texts_of(&bpe["merges"]));
    writer
}

fn fixture_spm() -> GgufWriter {
    let spm = &FIXTURE["spm"];
    let scores: Vec<f32> =
        spm["scores"].as_array().expect("an array").iter().map(|score| score.as_f64().expect("a score") as f32).collect();
    let types: Vec<i32> = ids_of(&spm["types"]).into_iter().map(|kind| kind as i32).collect();
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", texts_of(&spm["tokens"]));
    writer.set("tokenizer.ggml.scores", scores).set("tokenizer.ggml.token_type", types);
    writer
}

/// All bytes, a few merges, and one token of each kind: a vocabulary to try rules on.
fn small_bpe() -> GgufWriter {
    let mut tokens: Vec<String> = texts_of(&FIXTURE["bpe"]["tokens"])[..256].iter().map(|token| (*token).to_owned()).collect();
    tokens.sort();
    let mut types = vec![NORMAL; 256];
    for (token, kind) in [
        ("hi", NORMAL),
        ("Ġhi", NORMAL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", CONTROL),
        ("<think>", USER_DEFINED),
        ("<|fim_prefix|>", CONTROL),
        ("<|fim_suffix|>", USER_DEFINED),
        ("<|fim_middle|>", CONTROL),
        ("[PAD1]", 5),
    ] {
        tokens.push(token.to_owned());
        types.push(kind);
    }
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "qwen2");
    writer.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.token_type", types);
    writer.set("tokenizer.ggml.merges", vec!["h i", "Ġ hi"]);
    writer
}

fn names(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.token_name(*id).expect("in the vocabulary").to_owned()).collect()
}

fn detokenize(mut detokenizer: Detokenizer, ids: &[u32]) -> String {
    let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn byte_level_bpe_agrees_with_tokenizers() {
    let texts = texts_of(&FIXTURE["texts"]);
    let cases = FIXTURE["bpe"]["cases"].as_object().expect("an object");
    assert!(cases.len() >= 10, "the fixture tries many pre-tokenizers");
    for (pre, wanted) in cases {
        let tokenizer = Arc::new(load(&fixture_bpe(pre)).expect("a sound vocabulary"));
        for (text, wanted) in texts.iter().zip(wanted.as_array().expect("an array")) {
            let ids = tokenizer.encode(text, true).expect("every byte has a token");
            assert_eq!(ids, ids_of(wanted), "{pre}: {text:?}");
            assert_eq!(detokenize(Detokenizer::new(tokenizer.clone()), &ids), *text, "{pre}");
        }
    }
}

#[test]
fn sentencepiece_agrees_with_sentencepiece() {
    let tokenizer = Arc::new(load(&fixture_spm()).expect("a sound vocabulary"));
    let texts = texts_of(&FIXTURE["texts"]);
    for (text, wanted) in texts.iter().zip(FIXTURE["spm"]["cases"].as_array().expect("an array")) {
        let ids = tokenizer.encode(text, false).expect("every byte has a token");
        assert_eq!(ids, ids_of(wanted), "{text:?}");
        assert_eq!(detokenize(Detokenizer::new(tokenizer.clone()), &ids), *text);
    }
    assert_eq!(tokenizer.encode_with_specials("", false).expect("nothing to encode"), [1]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
}

#[test]
fn a_users_words_never_become_control_tokens() {
    let tokenizer = load(&small_bpe()).expect("a sound vocabulary");
    let text = "<|im_start|>hi<think> hi<|im_end|>";
    let parsed = tokenizer.encode(text, true).expect("encodes");
    assert_eq!(names(&tokenizer, &parsed), ["<|im_start|>", "hi", "<think>", "Ġhi", "<|im_end|>"]);
    let plain = tokenizer.encode(text, false).expect("encodes");
    assert!(plain.iter().all(|id| !tokenizer.is_control(*id)));
    assert_eq!(plain.iter().filter(|id| tokenizer.token_name(**id) == Some("<think>")).count(), 1, "user-defined tokens are always found");
    let back: Vec<u8> = plain.iter().flat_map(|id| tokenizer.token_bytes(*id, false).to_vec()).collect();
    assert_eq!(back, text.as_bytes());

    // Not even where merges lead to one: here "<" and "s>" to "<s>".
    for model in ["gpt2", "llama"] {
        let mut tokens: Vec<String> = texts_of(&FIXTURE["bpe"]["tokens"])[..256].iter().map(|token| (*token).to_owned()).collect();
        tokens.extend(["s>".to_owned(), "<s>".to_owned()]);
        let mut types = vec![NORMAL; 257];
        types.push(CONTROL);
        let mut writer = GgufWriter::new();
        writer.set("tokenizer.ggml.model", model).set("tokenizer.ggml.pre", "superbpe").set("tokenizer.ggml.tokens", tokens);
        writer.set("tokenizer.ggml.token_type", types).set("tokenizer.ggml.merges", vec!["s >", "< s>"]);
        writer.set("tokenizer.ggml.scores", vec![0f32; 258]).set("tokenizer.ggml.add_space_prefix", false);
        let tokenizer = load(&writer).expect("a sound vocabulary");
        assert_eq!(names(&tokenizer, &tokenizer.encode("<s>", false).expect("encodes")), ["<", "s>"], "{model}");
        assert_eq!(names(&tokenizer, &tokenizer.encode("<s>", true).expect("encodes")), ["<s>"], "{model}");
    }
}

#[test]
fn control_tokens_are_hidden_and_user_defined_ones_shown() {
    let tokenizer = Arc::new(load(&small_bpe()).expect("a sound vocabulary"));
    let ids = tokenizer.encode("<|im_start|>hi<think> hi<|im_end|>", true).expect("encodes");
    assert_eq!(detokenize(Detokenizer::new(tokenizer.clone()), &ids), "hi<think> hi");
    assert_eq!(detokenize(Detokenizer::new(tokenizer.clone()).showing_control(), &ids), "<|im_start|>hi<think> hi<|im_end|>");
    assert_eq!(tokenizer.token_bytes(tokenizer.token_id("[PAD1]").expect("in the vocabulary"), true), b"");
    assert_eq!(tokenizer.token_bytes(1_000_000, true), b"");
    assert_eq!(tokenizer.token_name(1_000_000), None);
    assert!(!tokenizer.is_control(1_000_000));
}

#[test]
fn roles_come_from_ids_and_from_names() {
    let tokenizer = load(&small_bpe()).expect("a sound vocabulary");
    let id = |name| tokenizer.token_id(name);
    let fim = tokenizer.fim();
    assert_eq!((fim.prefix, fim.suffix, fim.middle), (id("<|fim_prefix|>"), id("<|fim_suffix|>"), id("<|fim_middle|>")));
    assert_eq!((fim.pad, fim.repository, fim.file_separator), (None, None, None));
    assert!(tokenizer.is_control(fim.suffix.expect("found by name")), "a role makes a token control");
    assert_eq!(tokenizer.end_of_generation(), [id("<|im_end|>").expect("there")]);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (None, None, false));

    let tokenizer = load(small_bpe().set("tokenizer.ggml.eos_token_id", 7u32).set("tokenizer.ggml.fim_pre_token_id", 9u32)).expect("sound");
    assert_eq!((tokenizer.eos(), tokenizer.fim().prefix), (Some(7), Some(9)));
    assert_eq!(tokenizer.end_of_generation(), [7, tokenizer.token_id("<|im_end|>").expect("there")]);
}

#[test]
fn harmony_ends_a_turn_with_return_and_not_with_end() {
    let mut tokens: Vec<String> = texts_of(&FIXTURE["bpe"]["tokens"])[..256].iter().map(|token| (*token).to_owned()).collect();
    tokens.extend(["<|return|>", "<|call|>", "<|end|>", "<|channel|>"].map(str::to_owned));
    let types = [vec![NORMAL; 256], vec![CONTROL; 4]].concat();
    let mut writer = small_bpe();
    writer
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.token_type", types)
        .set("tokenizer.ggml.merges", Entry::Array(8, vec![]));
    let tokenizer = load(&writer).expect("a sound vocabulary");
    assert_eq!(tokenizer.end_of_generation(), [256, 257]);
    assert_eq!(tokenizer.token_bytes(258, false), b"<|end|>");
    assert_eq!(tokenizer.token_bytes(259, false), b"<|channel|>");
}

#[test]
fn bos_and_eos_are_put_once_and_where_asked_for() {
    let encode = |writer: &GgufWriter, text: &str| {
        let tokenizer = load(writer).expect("a sound vocabulary");
        let ids = tokenizer.encode_with_specials(text, true).expect("encodes");
        names(&tokenizer, &ids)
    };
    let mut writer = small_bpe();
    let (start, end) = (258u32, 259u32);
    writer.set("tokenizer.ggml.bos_token_id", start).set("tokenizer.ggml.eos_token_id", end);
    assert_eq!(encode(&writer, "hi"), ["hi"]);
    writer.set("tokenizer.ggml.add_bos_token", true).set("tokenizer.ggml.add_eos_token", true);
    assert_eq!(encode(&writer, "hi"), ["<|im_start|>", "hi", "<|im_end|>"]);
    assert_eq!(encode(&writer, "<|im_start|>hi<|im_end|>"), ["<|im_start|>", "hi", "<|im_end|>"]);
    // Llama 3's kind asks for bos by itself.
    writer.unset("tokenizer.ggml.add_bos_token").set("tokenizer.ggml.pre", "llama-bpe").set("tokenizer.ggml.add_eos_token", false);
    assert_eq!(encode(&writer, "hi"), ["<|im_start|>", "hi"]);
    writer.set("tokenizer.ggml.add_bos_token", false);
    assert_eq!(encode(&writer, "hi"), ["hi"]);
}

#[test]
fn a_word_that_is_a_token_stays_whole_where_merges_are_ignored() {
    let mut writer = small_bpe();
    writer.set("tokenizer.ggml.merges", Entry::Array(8, vec![]));
    let count = |writer: &GgufWriter| load(writer).expect("sound").encode(" hi", false).expect("encodes").len();
    assert_eq!(count(&writer), 3);
    assert_eq!(count(writer.set("tokenizer.ggml.pre", "llama-bpe")), 1);
}

#[test]
fn sentencepiece_puts_its_space_before_the_text_and_after_tokens() {
    let tokenizer = Arc::new(load(&fixture_spm()).expect("a sound vocabulary"));
    let ids = tokenizer.encode("x<think>x", false).expect("encodes");
    assert_eq!(names(&tokenizer, &ids), ["▁x", "<think>", "▁x"]);
    assert_eq!(detokenize(Detokenizer::new(tokenizer.clone()), &ids), "x<think> x");
    assert_eq!(detokenize(Detokenizer::continuing(tokenizer.clone()), &ids), " x<think> x");
    let mut writer = fixture_spm();
    let bare = Arc::new(load(writer.set("tokenizer.ggml.add_space_prefix", false)).expect("sound"));
    let ids = bare.encode(" x", false).expect("encodes");
    assert_eq!(detokenize(Detokenizer::new(bare.clone()), &ids), " x");
}

#[test]
fn parts_of_a_text_are_one_text() {
    let (spm, bpe): (&Tokenizer, _) = (&SPM, load(&small_bpe()).expect("a sound vocabulary"));
    for (tokenizer, control) in [(spm, "</s>"), (&bpe, "<|im_end|>")] {
        // Every cut of a text that names a control token and is not to become it: as if it was never cut.
        let text = format!("say {control} x<unk> x ▁x\n");
        let whole = tokenizer.encode(&text, false).expect("every byte has a token");
        for (first, _) in text.char_indices() {
            for (second, _) in text.char_indices().filter(|(second, _)| *second >= first) {
                let parts = [&text[..first], &text[first..second], &text[second..]].map(|part| (part, false));
                assert_eq!(tokenizer.encode_parts(parts).expect("encodes"), whole, "cut at {first} and {second}");
            }
        }
    }
    // Tokens are found where they may be, and separate what stands around them.
    let ids = SPM.encode_parts([("<s>x", true), ("</s>", false), (" x<s>", true), ("<think>", false), ("x", true)]).expect("encodes");
    let expected = [
        vec![SPM.token_id("<s>").expect("there")],
        SPM.encode("x</s> x", false).expect("encodes"),
        vec![SPM.token_id("<s>").expect("there"), SPM.token_id("<think>").expect("there")],
        SPM.encode("x", false).expect("encodes"),
    ];
    assert_eq!(ids, expected.concat());
    assert_eq!(SPM.encode_parts([]).expect("nothing to encode"), [0u32; 0]);
}

#[test]
fn the_unknown_token_is_special() {
    let id = SPM.token_id("<unk>").expect("SentencePiece has one");
    assert!(SPM.is_special(id) && !SPM.is_control(id));
    assert_eq!(SPM.encode("<unk>", true).expect("encodes"), [id]);
    assert!(!SPM.encode("<unk>", false).expect("encodes").contains(&id));
    let special = |name: &str| SPM.is_special(SPM.token_id(name).expect("there"));
    assert!(special("<s>") && !special("<think>") && !special("▁x") && !SPM.is_special(1_000_000));
}

#[test]
fn chat_templates_are_found_by_name() {
    let mut writer = small_bpe();
    assert_eq!(load(&writer).expect("sound").chat_template(None), None);
    writer.set("tokenizer.chat_template", "{{ plain }}").set("tokenizer.chat_templates", vec!["tool_use"]);
    writer.set("tokenizer.chat_template.tool_use", "{{ tools }}");
    let tokenizer = load(&writer).expect("sound");
    assert_eq!(tokenizer.chat_template(None), Some("{{ plain }}"));
    assert_eq!(tokenizer.chat_template(Some("tool_use")), Some("{{ tools }}"));
    assert_eq!(tokenizer.chat_template(Some("rag")), None);
    assert_eq!(tokenizer.chat_template_names().collect::<Vec<_>>(), ["tool_use"]);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let mut writer = small_bpe();
    let error = refusal(writer.set("tokenizer.ggml.pre", "next-years-model"));
    assert!(error.starts_with(r#"model.gguf: unknown tokenizer.ggml.pre "next-years-model""#), "{error}");
    let error = refusal(writer.unset("tokenizer.ggml.pre"));
    assert!(error.starts_with("model.gguf: tokenizer.ggml.pre is missing"), "{error}");
    let error = refusal(writer.set("tokenizer.ggml.model", "t5"));
    assert!(error.starts_with(r#"model.gguf: unknown tokenizer.ggml.model "t5""#), "{error}");
    let error = refusal(writer.unset("tokenizer.ggml.model"));
    assert_eq!(error, r#"model.gguf: metadata key "tokenizer.ggml.model" is missing"#);
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    let changed = |key: &str, value: Entry| refusal(small_bpe().set(key, value));
    let without = |key: &str| refusal(small_bpe().unset(key));
    assert_eq!(without("tokenizer.ggml.tokens"), r#"model.gguf: metadata key "tokenizer.ggml.tokens" is missing"#);
    assert_eq!(without("tokenizer.ggml.merges"), r#"model.gguf: metadata key "tokenizer.ggml.merges" is missing"#);
    assert_eq!(
        changed("tokenizer.ggml.tokens", vec![1u8].into()),
        r#"model.gguf: metadata key "tokenizer.ggml.tokens" has the wrong type: array of string wanted, array of 1 u8 found"#
    );
    assert_eq!(changed("tokenizer.ggml.tokens", Entry::Array(8, vec![])), "model.gguf: the vocabulary is empty");
    assert_eq!(
        changed("tokenizer.ggml.tokens", Entry::Array(8, vec!["a".into(), Entry::String(vec![0xff])])),
        "model.gguf: token 1 is not valid UTF-8"
    );
    assert_eq!(
        changed("tokenizer.ggml.token_type", vec![1i32; 3].into()),
        "model.gguf: tokenizer.ggml.token_type has 3 entries, 265 wanted, one for each token"
    );
    assert_eq!(
        changed("tokenizer.ggml.token_type", vec!["normal"; 265].into()),
        r#"model.gguf: metadata key "tokenizer.ggml.token_type" has the wrong type: array of i32 wanted, array of 265 string found"#
    );
    for (merge, what) in
        [("h", "is not two tokens with a space between"), ("", "is not two tokens with a space between"), ("h ", "is not two")]
    {
        let error = changed("tokenizer.ggml.merges", vec![merge].into());
        assert!(error.starts_with(&format!("model.gguf: merge 0 ({merge:?}) {what}")), "{error}");
    }
    assert_eq!(
        changed("tokenizer.ggml.merges", vec!["h i", "h o"].into()),
        r#"model.gguf: merge 1 ("h o") needs the token "ho", which is not in the vocabulary"#
    );
    for key in ["bos", "eos", "eot", "eom", "fim_pre"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        assert_eq!(changed(&key, 265u32.into()), format!("model.gguf: {key} is 265, and the vocabulary has 265 tokens"));
    }
    assert_eq!(
        changed("tokenizer.ggml.add_bos_token", true.into()),
        "model.gguf: tokenizer.ggml.add_bos_token is true, and tokenizer.ggml.bos_token_id is missing"
    );
    assert_eq!(
        changed("tokenizer.chat_template", 7u32.into()),
        r#"model.gguf: metadata key "tokenizer.chat_template" has the wrong type: string wanted, u32 7 found"#
    );
}

#[test]
fn tokens_appear_once_whatever_their_kinds() {
    for (first, second) in [(NORMAL, NORMAL), (CONTROL, CONTROL), (NORMAL, CONTROL), (CONTROL, NORMAL)] {
        let mut writer = small_bpe();
        writer.set("tokenizer.ggml.tokens", vec!["a", "<twice>", "<twice>"]).set("tokenizer.ggml.token_type", vec![NORMAL, first, second]);
        writer.set("tokenizer.ggml.merges", Entry::Array(8, vec![]));
        let error = refusal(&writer);
        assert!(error.starts_with(r#"model.gguf: token "<twice>" is in the vocabulary twice"#), "{error}");
        writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.scores", vec![0f32; 3]);
        assert_eq!(refusal(&writer), error);
    }
    // Tokens without a name are many in some files, and harm nobody.
    let mut writer = small_bpe();
    writer.set("tokenizer.ggml.tokens", vec!["", "a", ""]).set("tokenizer.ggml.token_type", vec![NORMAL; 3]);
    let tokenizer = load(writer.set("tokenizer.ggml.merges", Entry::Array(8, vec![]))).expect("sound");
    assert_eq!(tokenizer.encode("aa", true).expect("encodes"), [1, 1]);
}

#[test]
fn sentencepiece_vocabularies_need_scores_and_sound_byte_tokens() {
    let mut writer = fixture_spm();
    let error = refusal(writer.unset("tokenizer.ggml.scores"));
    assert_eq!(error, r#"model.gguf: metadata key "tokenizer.ggml.scores" is missing"#);
    let error = refusal(writer.set("tokenizer.ggml.scores", vec![0f32; 2]));
    assert!(error.starts_with("model.gguf: tokenizer.ggml.scores has 2 entries"), "{error}");
    for name in ["<0xZZ>", "0x0A", "<0x0>", "<0x+1>"] {
        let mut writer = GgufWriter::new();
        writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", vec!["a", name]);
        writer.set("tokenizer.ggml.scores", vec![0f32; 2]).set("tokenizer.ggml.token_type", vec![NORMAL, 6]);
        assert_eq!(refusal(&writer), format!("model.gguf: token {name:?} is a byte token and does not read like <0x0A>"));
    }
}

#[test]
fn a_byte_without_a_token_is_said_and_not_lost() {
    let mut writer = small_bpe();
    writer.set("tokenizer.ggml.tokens", vec!["a", "b"]).set("tokenizer.ggml.token_type", vec![NORMAL; 2]);
    let tokenizer = load(writer.set("tokenizer.ggml.merges", Entry::Array(8, vec![]))).expect("sound");
    assert_eq!(tokenizer.encode("ab", false).expect("encodes"), [0, 1]);
    let error = tokenizer.encode("abc", false).expect_err("no c").to_string();
    assert_eq!(error, "the vocabulary has no token for the byte 0x63");
    // SentencePiece has a token for what it does not know.
    writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", vec!["<unk>", "▁", "a"]);
    writer.set("tokenizer.ggml.scores", vec![0f32; 3]).set("tokenizer.ggml.token_type", vec![2, NORMAL, NORMAL]);
    let tokenizer = load(&writer).expect("sound");
    assert_eq!(tokenizer.encode("aé", false).expect("encodes"), [1, 2, 0]);
}

#[test]
fn long_texts_without_words_take_no_quadratic_time() {
    // A quadratic merge of a million characters would take hours.
    let bpe = load(&fixture_bpe("qwen2")).expect("sound");
    let spm = load(&fixture_spm()).expect("sound");
    for text in ["a".repeat(1_000_000), " ".repeat(1_000_000), "ab".repeat(500_000), "<".repeat(1_000_000)] {
        for tokenizer in [&bpe, &spm] {
            let ids = tokenizer.encode(&text, true).expect("encodes");
            let bytes: usize = ids.iter().map(|id| tokenizer.token_bytes(*id, false).len()).sum();
            assert!(bytes == text.len() || bytes == text.len() + 1, "{bytes}");
        }
    }
}

static BPE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(load(&fixture_bpe("qwen2")).expect("sound")));
static SPM: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(load(&fixture_spm()).expect("sound")));

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Text, cut anywhere into tokens, comes back whole.
    #[test]
    fn text_comes_back(text in any::<String>()) {
        let ids = BPE.encode(&text, true).expect("every byte has a token");
        prop_assert_eq!(detokenize(Detokenizer::new(BPE.clone()), &ids), text.clone());
        let plain = text.replace('▁', " ");
        let ids = SPM.encode(&plain, true).expect("every byte has a token");
        prop_assert_eq!(detokenize(Detokenizer::new(SPM.clone()), &ids), plain);
    }

    /// Any tokens in any order: all text given out is the lossy reading of all their bytes, and nothing given out is ever taken back.
    #[test]
    fn all_pushes_together_are_the_lossy_reading_of_all_bytes(seed in prop::collection::vec(any::<u32>(), 0..60), bytes_only in any::<bool>()) {
        for (tokenizer, singles) in [(&*BPE, 0..256), (&*SPM, 3..261)] {
            let vocab = tokenizer.vocab_size() as u32;
            // Single bytes make broken characters far more often than whole tokens do.
            let pick = |number: &u32| if bytes_only { singles.start + number % (singles.end - singles.start) } else { number % (vocab + 3) };
            let ids: Vec<u32> = seed.iter().map(pick).collect();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id, false).to_vec()).collect();
            prop_assert_eq!(detokenize(Detokenizer::continuing(tokenizer.clone()), &ids), String::from_utf8_lossy(&bytes));
        }
    }

    /// The merging itself, of whatever merge list, is the `tokenizers` crate's: merges that lead to tokens several ways, in any order.
    #[test]
    fn merges_are_those_of_the_tokenizers_crate(
        pieces in prop::collection::vec("[abc]{2,5}", 1..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 48),
        order in prop::collection::vec(any::<u32>(), 48),
        text in "[abc]{0,40}",
    ) {
        let mut tokens: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut merges = Vec::new();
        for (piece, cut) in pieces.iter().zip(cuts) {
            // Every part of it becomes a token, so that the merge is one.
            let cut = 1 + cut.index(piece.len() - 1);
            for token in [piece, &piece[..cut].to_owned(), &piece[cut..].to_owned()] {
                if !tokens.contains(token) {
                    tokens.push(token.clone());
                }
            }
            merges.push((piece[..cut].to_owned(), piece[cut..].to_owned()));
        }
        // Single letters make the first merges possible at all.
        merges.extend(tokens.iter().filter(|token| token.len() == 2).map(|token| (token[..1].to_owned(), token[1..].to_owned())));
        let mut keyed: Vec<_> = order.into_iter().cycle().zip(merges).collect();
        keyed.sort();
        keyed.dedup_by(|a, b| a.1 == b.1);
        let merges: Vec<(String, String)> = keyed.into_iter().map(|(_, merge)| merge).collect();

        let mut writer = GgufWriter::new();
        writer.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "qwen2").set("tokenizer.ggml.tokens", tokens.clone());
        writer.set("tokenizer.ggml.merges", merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>());
        let ours = load(&writer).expect("sound").encode(&text, false).expect("every byte has a token");
        let vocab: CrateVocab = tokens.into_iter().zip(0..).collect();
        let theirs = CrateBpe::builder().vocab_and_merges(vocab, merges).build().expect("sound");
        let theirs: Vec<u32> = theirs.tokenize(&text).expect("tokenizes").iter().map(|token| token.id).collect();
        prop_assert_eq!(ours, theirs);
    }

    /// A damaged vocabulary is loaded or refused, and a loaded one encodes or says why not.
    #[test]
    fn damaged_vocabularies_do_not_panic(
        tokens in prop::collection::vec(any::<String>(), 0..12),
        types in prop::collection::vec(-1..8i32, 0..12),
        merges in prop::collection::vec(any::<String>(), 0..4),
        scores in prop::collection::vec(any::<f32>(), 0..12),
        eos in any::<u32>(),
        spm in any::<bool>(),
        text in any::<String>(),
    ) {
        let mut writer = GgufWriter::new();
        writer.set("tokenizer.ggml.model", if spm { "llama" } else { "gpt2" }).set("tokenizer.ggml.pre", "gpt-2");
        let len = tokens.len();
        writer.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.merges", merges);
        let types: Vec<i32> = types.into_iter().cycle().take(len).collect();
        let scores: Vec<f32> = scores.into_iter().cycle().take(len).collect();
        writer.set("tokenizer.ggml.token_type", types).set("tokenizer.ggml.scores", scores);
        writer.set("tokenizer.ggml.eos_token_id", eos % 16);
        if let Ok(tokenizer) = load(&writer) {
            for parse_special in [false, true] {
                let _ = tokenizer.encode_with_specials(&text, parse_special);
            }
        }
    }
}
