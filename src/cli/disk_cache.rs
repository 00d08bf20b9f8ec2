//! The disk cache of this user: where it lies, and what its blocks belong to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kernels::cpu::isa;

use super::model_digest::{self, Part};
use crate::config::{Config, DiskCache, DiskCacheFolder};
use crate::engine::kv_store::chain::{CacheKey, Identity};
use crate::engine::kv_store::{KvStore, STALL_LIMIT, StoreHandle, StoreOptions, staging_bytes};

/// How long an end waits for the last prompts to be written: a disk of 200 MB/s writes 400 MB in it.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// In the folder, beside the blocks: digests of model files.
const MODELS_FILE: &str = "models";

/// The folder that was told, else the one in the user's cache, beside the Hub's. `None`: this user has none.
pub fn folder(config: &Config) -> Option<PathBuf> {
    if let DiskCacheFolder::Told(folder) = &config.engine.disk_cache_dir {
        return Some(folder.clone());
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || variable("HOME").or_else(|| variable("USERPROFILE")).map(|home| home.join(".cache"));
    variable("XDG_CACHE_HOME").or_else(user).map(|cache| cache.join("understudy"))
}

/// Memory it takes beside the cache itself.
pub fn memory_bytes(config: &Config, block_bytes: u64) -> u64 {
    match config.engine.disk_cache {
        DiskCache::Off => 0,
        DiskCache::Bytes(_) => staging_bytes(block_bytes),
    }
}

/// Starts the store for the model of these parts on the CPU; `None` where none is wanted. What it is kept under is found out on the
/// store's own thread.
pub fn start(config: &Config, parts: Vec<Part>, block_bytes: usize) -> Option<(KvStore, StoreHandle)> {
    let DiskCache::Bytes(bytes_max) = config.engine.disk_cache else { return None };
    let Some(folder) = folder(config) else {
        tracing::warn!("neither HOME nor XDG_CACHE_HOME is set, so no prefix is kept on the disk; --disk-cache-dir says where");
        return None;
    };
    let (kv_type, memory) = (config.engine.kv_type.name().to_owned(), folder.join(MODELS_FILE));
    let identify = move || Some(CacheKey::new(&identity(&parts, &memory, kv_type, block_bytes)?));
    Some(KvStore::start(StoreOptions { folder, bytes_max, block_bytes, stall_limit: STALL_LIMIT }, identify))
}

fn identity(parts: &[Part], memory: &Path, kv_type: String, block_bytes: usize) -> Option<Identity> {
    Some(Identity {
        model: model_digest::digest(parts, memory),
        kv_type,
        isa: isa::isa().ok()?.name().to_owned(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        arithmetic: kernels::ARITHMETIC_VERSION,
        block_bytes: block_bytes as u64,
    })
}
