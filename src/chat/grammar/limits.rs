//! How much a grammar may cost: what is beyond is refused before it runs, or fails the one request that brought it.

use llguidance::api::ParserLimits;

/// Subschemas, properties and values of a schema, all together. The tools of a large agent have some 2,000.
pub const SCHEMA_NODES_MAX: usize = 20_000;
/// Nesting of a schema, through its references too: compiling is recursive, on a thread's ordinary stack of 2 MiB. (Without optimisation
/// a level takes some 20 KiB.)
pub const SCHEMA_DEPTH_MAX: usize = 40;
/// Bytes of a regular expression, or of a grammar.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Repetitions that are written out one by one when a grammar is compiled.
pub const ITEMS_MAX: u64 = 4_096;
/// Compiled grammars that are kept. Agents send the same tools each turn; a sub-agent has its own.
pub const GRAMMARS_KEPT: usize = 32;

/// As llguidance has them (its speeds: 50,000 units of fuel or 20,000 items a millisecond), but a mask may take half as long.
pub const PARSER_LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};
