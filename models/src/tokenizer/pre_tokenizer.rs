//! How text is cut into words before byte-level BPE: one rule for each name that `tokenizer.ggml.pre` can have.
//!
//! The names are those llama.cpp's converter writes; the expressions are those of the models' own tokenizer.json. Where a model
//! cuts in several steps, each step cuts what the one before left. Nothing backtracks: time is linear in the text, whatever it is.
//! Knows no vocabulary.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

/// What a name in `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizer {
    steps: Vec<Step>,
    /// A word that is a token is that token, even where the merges would not lead there.
    pub(super) ignore_merges: bool,
    /// Whether a text starts with bos where the metadata does not say.
    pub(super) adds_bos: bool,
}

enum Step {
    /// Matches become words, and what lies between them too.
    Split(Regex),
    /// The same, with `\s+(?!\S)|\s+` as last alternatives (pattern 1 of two): white space before a word leaves its last
    /// character to that word. Written out here because a lookahead would need backtracking.
    SplitLeavingSpace(Regex),
    /// Text is cut where a whole number of threes is left of a run that matches, `(?=(\d{3})+(?!\d))`: not at a run's start as such.
    ThreesFromRight(Regex),
}

/// A step as the table has it.
#[derive(Clone, Copy)]
enum Rule {
    Split(&'static str),
    SplitLeavingSpace(&'static str),
    ThreesFromRight(&'static str),
}
use Rule::{Split, SplitLeavingSpace, ThreesFromRight};

struct Row {
    names: &'static [&'static str],
    rules: &'static [Rule],
    ignore_merges: bool,
    adds_bos: bool,
}

const fn row(names: &'static [&'static str], rules: &'static [Rule]) -> Row {
    Row { names, rules, ignore_merges: false, adds_bos: false }
}

impl Row {
    const fn ignoring_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }
    const fn adding_bos(self) -> Self {
        Self { adds_bos: true, ..self }
    }
}

const GPT_2: Rule = SplitLeavingSpace(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const LLAMA_3: Rule =
    SplitLeavingSpace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+");
const QWEN_2: Rule = SplitLeavingSpace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+");
const GPT_4O: Rule = SplitLeavingSpace(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
/// Words of DeepSeek 3 and its likes, after numbers and CJK.
const DEEPSEEK_WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r"[ ]?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+",
);
const CJK_AND_KANA: Rule = Split(r"[一-龥\x{3040}-ゟ゠-ヿ]+");
const DIGIT: Rule = Split(r"\p{N}");
const THREE_ASCII_DIGITS: Rule = Split("[0-9][0-9][0-9]");
const CASED_PUNCTUATION: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const TABLE: &[Row] = &[
    row(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
        ],
        &[GPT_2],
    ),
    row(&["default"], &[Split(r"[\p{P}\$\+<=>\^~\|]+"), GPT_2, Split(r"\p{N}+"), THREE_ASCII_DIGITS]),
    row(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], &[LLAMA_3])
        .ignoring_merges()
        .adding_bos(),
    row(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA_3]),
    row(&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"], &[QWEN_2]),
    row(
        &["qwen35"],
        &[SplitLeavingSpace(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
    ),
    row(&["ufakzeka"], &[SplitLeavingSpace(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")]),
    row(&["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"], &[DIGIT, GPT_2]),
    row(&["falcon"], &[Split(r"[\p{P}\$\+<=>\^~\|`]+"), GPT_2, THREE_ASCII_DIGITS]),
    row(
        &["deepseek-llm"],
        &[
            Split(r"[\r\n]"),
            // Letters that have case, without those younger than the list this model was made with.
            Split(concat!(
                r"\s?[\p{Lu}\p{Ll}\p{Lt}--[\x{560}-\x{588}\x{10C7}\x{10CD}\x{10D0}-\x{10FA}\x{10FD}-\x{10FF}\x{1C80}-\x{1C8F}",
                r"\x{2D00}-\x{2D2D}\x{A790}-\x{A7FF}\x{AB30}-\x{AB6F}\x{10570}-\x{105BF}\x{16E40}-\x{16EDF}",
                r"\x{1D400}-\x{1D7FF}\x{1DF00}-\x{1DFFF}]]+",
            )),
            Split(r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+"),
            Split(r"\s+$"),
            Split(r"[一-龥ࠀ-一가-\x{D7FF}]+"),
            Split(r"\p{N}+"),
        ],
    ),
    row(&["deepseek-coder"], &[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(r"[一-龥ࠀ-一가-\x{D7FF}]+"), DIGIT]),
    row(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[Split(r"\p{N}{1,3}"), CJK_AND_KANA, SplitLeavingSpace(DEEPSEEK_WORDS)]),
    row(
        &["youtu"],
        &[
            Split(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[ㄅ-ㄯ]+|[一-龥\x{3040}-ゟ゠-ヿ]+"),
            SplitLeavingSpace(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
                r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            )),
        ],
    )
    .ignoring_merges(),
    row(&["poro-chat", "bloom", "gpt3-finnish"], &[Split(CASED_PUNCTUATION)]),
    row(&["viking"], &[Split(CASED_PUNCTUATION), DIGIT]),
    row(
        &["tekken"],
        &[SplitLeavingSpace(concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        ))],
    )
    .ignoring_merges()
    .adding_bos(),
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT_4O]),
    row(&["granite-embed-multi-97m"], &[GPT_4O]).ignoring_merges(),
    row(
        &["kimi-k2"],
        &[SplitLeavingSpace(concat!(
            r"\p{Han}+|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        ))],
    ),
    row(&["superbpe"], &[Split(r"\p{N}+"), ThreesFromRight(r"\d+")]),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[SplitLeavingSpace(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]")],
    ),
    row(
        &["seed-coder"],
        &[SplitLeavingSpace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+")],
    ),
    row(&["laguna"], &[Split(r"[^\n]+|[\n]+"), QWEN_2]),
    row(
        &["exaone-moe"],
        &[SplitLeavingSpace(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
        ))],
    ),
    row(
        &["minicpm5"],
        &[
            Split(r"\p{N}{1,3}"),
            SplitLeavingSpace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"),
        ],
    )
    .ignoring_merges(),
];

impl PreTokenizer {
    /// `None` for a name that is not in the table.
    pub(super) fn named(name: &str) -> Option<Self> {
        let row = TABLE.iter().find(|row| row.names.contains(&name))?;
        let steps = row.rules.iter().map(|rule| Step::new(*rule)).collect();
        Some(Self { steps, ignore_merges: row.ignore_merges, adds_bos: row.adds_bos })
    }

    /// The words of `text`, in order; together they are the text.
    pub(super) fn words<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut words = vec![text];
        for step in &self.steps {
            let mut cut = Vec::with_capacity(words.len().max(text.len() / 4));
            words.iter().for_each(|word| step.cut(word, &mut cut));
            words = cut;
        }
        words
    }
}

impl Step {
    fn new(rule: Rule) -> Self {
        let compile = |patterns: &[&str]| Regex::new_many(patterns).expect("the table's expressions compile, as its test shows");
        match rule {
            Split(expression) => Self::Split(compile(&[expression])),
            SplitLeavingSpace(expression) => Self::SplitLeavingSpace(compile(&[expression, r"\s+"])),
            ThreesFromRight(runs) => Self::ThreesFromRight(compile(&[runs])),
        }
    }

    fn cut<'a>(&self, text: &'a str, words: &mut Vec<&'a str>) {
        match self {
            Self::Split(regex) => cut_at_matches(regex, text, words),
            Self::SplitLeavingSpace(regex) => cut_leaving_space(regex, text, words),
            Self::ThreesFromRight(runs) => cut_in_threes(runs, text, words),
        }
    }
}

fn cut_at_matches<'a>(regex: &Regex, text: &'a str, words: &mut Vec<&'a str>) {
    let mut done = 0;
    for found in regex.find_iter(text) {
        push(&text[done..found.start()], words);
        push(&text[found.range()], words);
        done = found.end();
    }
    push(&text[done..], words);
}

/// Pattern 1 is `\s+`: where more text follows, its match leaves the last character, if it has two or more.
fn cut_leaving_space<'a>(regex: &Regex, text: &'a str, words: &mut Vec<&'a str>) {
    let mut done = 0;
    while done < text.len() {
        // Nearly every word starts where the last one ended, and an anchored search finds that without looking back.
        let input = Input::new(text).range(done..);
        let found = regex.search(&input.clone().anchored(Anchored::Yes)).or_else(|| regex.search(&input));
        let Some(found) = found else { break };
        push(&text[done..found.start()], words);
        let word = &text[found.range()];
        let last_len_bytes = word.chars().next_back().map_or(0, char::len_utf8);
        let leaves_last = found.pattern().as_usize() == 1 && found.end() < text.len() && last_len_bytes < word.len();
        let end = if leaves_last { found.end() - last_len_bytes } else { found.end() };
        push(&text[found.start()..end], words);
        done = end;
    }
    push(&text[done..], words);
}

fn cut_in_threes<'a>(runs: &Regex, text: &'a str, words: &mut Vec<&'a str>) {
    let mut done = 0;
    for run in runs.find_iter(text) {
        let digits: Vec<usize> = text[run.range()].char_indices().map(|(offset, _)| run.start() + offset).collect();
        for (index, offset) in digits.iter().enumerate() {
            if (digits.len() - index).is_multiple_of(3) {
                push(&text[done..*offset], words);
                done = *offset;
            }
        }
    }
    push(&text[done..], words);
}

fn push<'a>(word: &'a str, words: &mut Vec<&'a str>) {
    if !word.is_empty() {
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        PreTokenizer::named(name).expect("in the table").words(text)
    }

    #[test]
    fn every_rule_compiles_and_every_name_is_there_once() {
        let names: Vec<&str> = TABLE.iter().flat_map(|row| row.names).copied().collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} is in the table twice");
            let text = "Héllo, wörld's 12345  x\n\n\ty 中文かな 한국어 １２ 🙂\u{0301}e";
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
        assert!(PreTokenizer::named("no-such-model").is_none());
        assert!(PreTokenizer::named("").is_none());
    }

    #[test]
    fn gpt_2_keeps_the_space_with_its_word() {
        assert_eq!(words("gpt-2", "I'll  go,\n\nnow 2024"), ["I", "'ll", " ", " go", ",", "\n", "\n", "now", " 2024"]);
        assert_eq!(words("gpt-2", "a \t "), ["a", " \t "]);
        assert_eq!(words("gpt-2", "\tx"), ["\t", "x"]);
    }

    #[test]
    fn llama_3_and_qwen_2_differ_in_numbers() {
        assert_eq!(words("llama-bpe", "x = 12345;\n\n  y"), ["x", " =", " ", "123", "45", ";\n\n", " ", " y"]);
        assert_eq!(words("qwen2", "x = 123;\n  y"), ["x", " =", " ", "1", "2", "3", ";\n", " ", " y"]);
        assert_eq!(words("qwen2", "IT'S\u{a0}it's"), ["IT", "'S", "\u{a0}it", "'s"]);
        assert_eq!(words("qwen2", "a  \n \n  b"), ["a", "  \n \n", " ", " b"]);
    }

    #[test]
    fn steps_cut_what_the_step_before_left() {
        assert_eq!(words("falcon", "a+12345 b"), ["a", "+", "123", "45", " b"]);
        assert_eq!(words("smollm", "in 1999"), ["in", " ", "1", "9", "9", "9"]);
        assert_eq!(
            words("deepseek-v3", "price: $1234.50 人民币 .foo"),
            ["price", ":", " $", "123", "4", ".", "50", " ", "人民币", " .", "foo"]
        );
        assert_eq!(words("default", "a, 1234"), ["a", ",", " ", "123", "4"]);
    }

    #[test]
    fn camel_case_is_cut_by_gpt_4o() {
        assert_eq!(words("gpt-4o", "HTTPServer don't x/"), ["HTTPServer", " don't", " x", "/"]);
        assert_eq!(words("tekken", "fooBar 12"), ["foo", "Bar", " ", "1", "2"]);
    }

    #[test]
    fn threes_are_counted_from_the_right() {
        assert_eq!(words("superbpe", "by the 1234567"), ["by the ", "1", "234", "567"]);
        // A number that is no digit: the run behind it is cut off only where it is threes.
        assert_eq!(words("superbpe", "①12 ①123 1234①"), ["①12", " ", "①", "123", " ", "1", "234①"]);
    }

    #[test]
    fn long_runs_take_linear_time() {
        // A backtracking engine gives up (or overflows its stack) on these.
        for text in [" ".repeat(2_000_000), "\n".repeat(1_000_000), "a".repeat(1_000_000), " \n".repeat(500_000), "'".repeat(1_000_000)] {
            for name in ["gpt-2", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3"] {
                assert_eq!(words(name, &text).iter().map(|word| word.len()).sum::<usize>(), text.len());
            }
        }
    }
}
