//! A synthetic byte-level BPE vocabulary of any size: 256 bytes, merges of two and three, the usual control tokens, padding.

use crate::gguf::writer::GgufWriter;

/// Tokens in order of id, and the merges that make them.
pub struct Vocabulary {
    tokens: Vec<String>,
    /// GGUF's kinds: 1 normal, 3 control, 5 unused.
    kinds: Vec<i32>,
    merges: Vec<String>,
    end_of_text: u32,
    end_of_turn: u32,
}

const CONTROL: [&str; 8] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>"];

/// The bytes texts are made of, likeliest first; the rest follow in numeric order.
const COMMON: &[u8] = b" etaoinshrdlucmfwypvbgkjqxz\n.,_()ETAOINSHRDLUCMFWYPVBGKJQXZ0123456789-=:;'\"{}[]<>/*+&|!?#$%@\\^~`\t";

const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

impl Vocabulary {
    /// `size` tokens, at least the bytes and the control tokens.
    pub fn new(size: usize) -> Self {
        let plain = size.checked_sub(CONTROL.len()).filter(|plain| *plain >= 256).expect("room for bytes and control tokens");
        let letters: Vec<char> = (0..=255).map(letter_of).collect();
        let mut tokens: Vec<String> = letters.iter().map(|letter| letter.to_string()).collect();
        let mut merges = Vec::new();
        let order = common_first();
        let text = |bytes: &[u8]| -> String { bytes.iter().map(|byte| letters[usize::from(*byte)]).collect() };
        let pairs = shells(2).map(|index| vec![order[index[0]], order[index[1]]]).take(256 * 256);
        let triples = shells(3).map(|index| index.iter().map(|index| order[*index]).collect());
        for bytes in pairs.chain(triples).take(plain - 256) {
            let (first, last) = bytes.split_at(bytes.len() - 1);
            merges.push(format!("{} {}", text(first), text(last)));
            tokens.push(text(&bytes));
        }
        let mut kinds = vec![1; tokens.len()];
        let end_of_text = tokens.len() as u32;
        tokens.extend(CONTROL.map(str::to_owned));
        kinds.resize(tokens.len(), 3);
        while tokens.len() < size {
            tokens.push(format!("[PAD{}]", tokens.len()));
            kinds.push(5);
        }
        Self { tokens, kinds, merges, end_of_text, end_of_turn: end_of_text + 2 }
    }

    /// The keys of `tokenizer.*`.
    pub fn set_metadata(self, writer: &mut GgufWriter, pre: &str) {
        writer
            .set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", pre)
            .set("tokenizer.ggml.tokens", self.tokens)
            .set("tokenizer.ggml.token_type", self.kinds)
            .set("tokenizer.ggml.merges", self.merges)
            .set("tokenizer.ggml.bos_token_id", self.end_of_text)
            .set("tokenizer.ggml.eos_token_id", self.end_of_turn)
            .set("tokenizer.ggml.padding_token_id", self.end_of_text)
            .set("tokenizer.ggml.add_bos_token", false)
            .set("tokenizer.chat_template", CHAT_TEMPLATE);
    }
}

/// GPT-2's letters for bytes: a printable byte stands for itself, the others follow from U+0100 on.
fn letter_of(byte: u32) -> char {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = if printable(byte) { byte } else { 0x100 + (0..byte).filter(|byte| !printable(*byte)).count() as u32 };
    char::from_u32(code).expect("a letter below U+0144")
}

fn common_first() -> Vec<u8> {
    let rest = (0..=255).filter(|byte| !COMMON.contains(byte));
    COMMON.iter().copied().chain(rest).collect()
}

/// All tuples of `len` indices below 256, those of small indices first: shell after shell of equal maximum.
fn shells(len: u32) -> impl Iterator<Item = Vec<usize>> {
    (0..256usize).flat_map(move |shell| {
        let side = shell + 1;
        (0..side.pow(len)).filter_map(move |number| {
            let tuple: Vec<usize> = (0..len).map(|place| number / side.pow(place) % side).collect();
            tuple.contains(&shell).then_some(tuple)
        })
    })
}
