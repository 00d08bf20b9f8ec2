//! How often the interesting things happened in all seeds together.

use understudy::engine::layer_groups::StatePools;

#[derive(Debug, Default, Clone, Copy)]
pub struct Reached {
    pub answers: usize,
    pub hits: usize,
    pub evictions: usize,
    pub pauses: usize,
    pub cancels_waiting: usize,
    pub cancels_prompt: usize,
    pub cancels_answer: usize,
    pub failures: usize,
    pub refusals: usize,
    pub collisions: usize,
    pub drafted: usize,
    pub accepted: usize,
    pub guessed: usize,
    pub guessed_right: usize,
    pub overtakings: usize,
    pub out_of_patience: usize,
    pub constrained: usize,
    pub late_masks: usize,
    pub constrained_drafts: usize,
    pub cancels_held: usize,
    pub disk_reads: usize,
    pub disk_writes: usize,
    pub disk_damages: usize,
    pub hits_in_windows: usize,
    pub hits_of_checkpoints: usize,
    pub undone_drafts: usize,
}

impl Reached {
    /// An answer found so many tokens of its prompt cached, in a model of these layers.
    pub fn note_hit(&mut self, tokens: usize, pools: &StatePools) {
        self.hits_in_windows += usize::from(pools.windows.iter().any(|pool| pool.window < tokens));
        self.hits_of_checkpoints += usize::from(pools.state_slots.is_some() && tokens > 0);
    }

    /// A simulation that never gets there checks nothing.
    pub fn check(&self) {
        let Reached { answers, hits, evictions, pauses, failures, refusals, collisions, constrained, late_masks, .. } = *self;
        let Reached { cancels_waiting, cancels_prompt, cancels_answer, cancels_held, disk_reads, disk_writes, disk_damages, .. } = *self;
        let Reached { drafted, accepted, guessed, guessed_right, constrained_drafts, overtakings, out_of_patience, .. } = *self;
        let Reached { hits_in_windows, hits_of_checkpoints, undone_drafts, .. } = *self;
        for (what, times) in [
            ("answers", answers),
            ("hits", hits),
            ("evictions", evictions),
            ("pauses", pauses),
            ("cancels while waiting", cancels_waiting),
            ("cancels in the prompt", cancels_prompt),
            ("cancels in the answer", cancels_answer),
            ("failures", failures),
            ("refusals", refusals),
            ("collisions", collisions),
            ("drafted tokens", drafted),
            ("drafted tokens that were right", accepted),
            ("tokens that a draft model guessed", guessed),
            ("tokens that a draft model guessed right", guessed_right),
            ("more urgent ones that were served first", overtakings),
            ("less urgent ones that had waited too long", out_of_patience),
            ("constrained answers", constrained),
            ("late masks", late_masks),
            ("drafts under a constraint", constrained_drafts),
            ("cancels while the disk is read", cancels_held),
            ("blocks from the disk", disk_reads),
            ("blocks to the disk", disk_writes),
            ("blocks of the disk that were not believed", disk_damages),
            ("hits behind the end of a window", hits_in_windows),
            ("hits of a checkpoint", hits_of_checkpoints),
            ("drafts that a state had seen and that were wrong", undone_drafts),
        ] {
            assert!(times >= 50, "only {times} {what} in all seeds: {self:?}");
        }
    }
}
