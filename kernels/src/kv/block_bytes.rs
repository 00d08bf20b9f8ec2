//! One block's keys and values as bytes, out of a layer and into it: what a disk keeps of them.
//!
//! The bytes are the CPU's own layout, so they mean something only to a layer of the same shape, type and arithmetic; who keeps them
//! must see to that. Nothing is rounded on the way.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::f16;
use std::ops::Range;

use super::KvLayer;

impl KvLayer {
    /// Bytes of one block, keys and values together; `None` on other devices than the CPU, whose pages are not copied out.
    pub fn block_bytes(&self) -> Option<usize> {
        self.device().is_cpu().then(|| part_bytes(&self.k) + part_bytes(&self.v))
    }

    /// Appends the keys of `block` and behind them its values. Errors: a block beyond the cache, another device than the CPU.
    pub fn read_block(&self, block: u32, out: &mut Vec<u8>) -> Result<()> {
        self.check_block(block)?;
        read(&self.k, block, out)?;
        read(&self.v, block, out)
    }

    /// Puts back what [`KvLayer::read_block`] gave. Errors as there, and another number of bytes than [`KvLayer::block_bytes`].
    pub fn write_block(&self, block: u32, bytes: &[u8]) -> Result<()> {
        self.check_block(block)?;
        let (wanted, k_bytes) = (part_bytes(&self.k) + part_bytes(&self.v), part_bytes(&self.k));
        if bytes.len() != wanted {
            bail!("a block of this layer has {wanted} bytes, not {}", bytes.len());
        }
        let (k, v) = bytes.split_at(k_bytes);
        self.k.inplace_op1(&WriteBlock { block, bytes: k })?;
        self.v.inplace_op1(&WriteBlock { block, bytes: v })
    }

    fn check_block(&self, block: u32) -> Result<()> {
        if !self.device().is_cpu() {
            bail!("blocks of a cache on a device are not copied");
        }
        if block as usize >= self.blocks {
            bail!("block {block} is beyond the cache's {}", self.blocks);
        }
        Ok(())
    }
}

/// Elements of one block of `pages [blocks, ..]`.
fn part_len(pages: &Tensor) -> usize {
    pages.dims()[1..].iter().product()
}

fn part_bytes(pages: &Tensor) -> usize {
    part_len(pages) * pages.dtype().size_in_bytes()
}

/// Where the elements of `block` lie.
fn place(layout: &Layout, block: u32) -> Result<Range<usize>> {
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("cache pages must be contiguous") };
    let len: usize = layout.dims()[1..].iter().product();
    let start = start + block as usize * len;
    Ok(start..start + len)
}

fn read(pages: &Tensor, block: u32, out: &mut Vec<u8>) -> Result<()> {
    let (storage, layout) = pages.storage_and_layout();
    let place = place(layout, block)?;
    match &*storage {
        Storage::Cpu(CpuStorage::F16(values)) => append(out, &values[place], f16::to_le_bytes),
        Storage::Cpu(CpuStorage::F32(values)) => append(out, &values[place], f32::to_le_bytes),
        Storage::Cpu(CpuStorage::U8(bytes)) => out.extend_from_slice(&bytes[place]),
        _ => bail!("cache pages are f16, f32 or bytes on the CPU here"),
    }
    Ok(())
}

/// A plain copy on little-endian machines: the compiler sees through the loop.
fn append<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes_of: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + N * values.len(), 0);
    let (places, _) = out[start..].as_chunks_mut::<N>();
    for (place, value) in places.iter_mut().zip(values) {
        *place = bytes_of(*value);
    }
}

struct WriteBlock<'a> {
    block: u32,
    bytes: &'a [u8],
}

impl InplaceOp1 for WriteBlock<'_> {
    fn name(&self) -> &'static str {
        "kv_write_block"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let place = place(layout, self.block)?;
        match storage {
            CpuStorage::F16(values) => fill(&mut values[place], self.bytes, f16::from_le_bytes),
            CpuStorage::F32(values) => fill(&mut values[place], self.bytes, f32::from_le_bytes),
            CpuStorage::U8(bytes) => bytes[place].copy_from_slice(self.bytes),
            _ => bail!("cache pages are f16, f32 or bytes on the CPU here"),
        }
        Ok(())
    }
}

fn fill<T, const N: usize>(values: &mut [T], bytes: &[u8], of_bytes: impl Fn([u8; N]) -> T) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (value, chunk) in values.iter_mut().zip(chunks) {
        *value = of_bytes(*chunk);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::KvDtype;
    use super::*;

    /// Three blocks of two heads of 32, every byte its own.
    fn layer(dtype: KvDtype) -> KvLayer {
        let layer = KvLayer::new(3, 2, 32, dtype, &Device::Cpu).unwrap();
        let bytes = layer.block_bytes().unwrap();
        for block in 0..3u32 {
            let content: Vec<u8> = (0..bytes).map(|i| (i as u32 * 31 + block * 97 + i as u32 / 256) as u8).collect();
            layer.write_block(block, &content).unwrap();
        }
        layer
    }

    fn read_all(layer: &KvLayer) -> Vec<Vec<u8>> {
        let read = |block| {
            let mut out = Vec::new();
            layer.read_block(block, &mut out).unwrap();
            out
        };
        (0..3).map(read).collect()
    }

    #[test]
    fn what_is_read_is_what_was_written_whatever_the_bits() {
        for dtype in [KvDtype::F16, KvDtype::F32, KvDtype::Q8_0] {
            let layer = layer(dtype);
            let bytes = layer.block_bytes().unwrap();
            assert_eq!(bytes as u64, dtype.bytes(2 * 2 * 32 * 32), "{dtype}: as the memory contract counts");
            let blocks = read_all(&layer);
            for (block, content) in blocks.iter().enumerate() {
                let wanted: Vec<u8> = (0..bytes).map(|i| (i as u32 * 31 + block as u32 * 97 + i as u32 / 256) as u8).collect();
                assert_eq!(*content, wanted, "{dtype}: block {block}");
            }
            // Another block takes its place, and its neighbours stay as they are.
            layer.write_block(1, &blocks[2]).unwrap();
            assert_eq!(read_all(&layer), [blocks[0].clone(), blocks[2].clone(), blocks[2].clone()]);
        }
    }

    #[test]
    fn attention_sees_a_block_that_was_put_back() {
        let from = KvLayer::new(2, 1, 8, KvDtype::F16, &Device::Cpu).unwrap();
        let to = KvLayer::new(4, 1, 8, KvDtype::F16, &Device::Cpu).unwrap();
        let content: Vec<u8> = (0..from.block_bytes().unwrap()).map(|i| (i % 59) as u8).collect();
        from.write_block(1, &content).unwrap();
        to.write_block(3, &content).unwrap();
        let gathered = |layer: &KvLayer, block| {
            let (k, v) = layer.gather(&[block], 32).unwrap();
            [k, v].map(|part| part.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        assert_eq!(gathered(&from, 1), gathered(&to, 3));
        assert_ne!(gathered(&to, 3), gathered(&to, 2));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let layer = layer(KvDtype::F16);
        assert!(layer.read_block(3, &mut Vec::new()).unwrap_err().to_string().contains("beyond the cache's 3"));
        assert!(layer.write_block(3, &[]).is_err());
        assert!(layer.write_block(0, &[0; 7]).unwrap_err().to_string().contains("not 7"));
    }
}
