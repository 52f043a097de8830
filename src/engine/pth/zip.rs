// SPDX-License-Identifier: MPL-2.0
//! The newer container of a checkpoint: a zip archive, read by the directory at its end.
//!
//! Upstream: PKWARE's APPNOTE.

use std::collections::HashMap;
use std::ops::Range;

use super::Checked;

/// A zip archive as `torch.save` writes it: one folder, entries stored as they are.
pub(super) struct Archive<'a> {
    file: &'a [u8],
    /// Name without the folder -> (place of the local header, size, method).
    entries: HashMap<&'a [u8], (usize, usize, u16)>,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the archive's end. The headers before the entries may not know their sizes.
    pub(super) fn open(file: &'a [u8]) -> Checked<Self> {
        const END: usize = 22;
        let broken = "not a complete zip archive";
        let tail = file.len().saturating_sub(END + 0xffff);
        let end = (tail..=file.len().saturating_sub(END)).rev().find(|&at| file[at..].starts_with(b"PK\x05\x06"));
        let end = end.filter(|&at| at + END <= file.len()).ok_or(broken)?;
        let (count, mut at) = (short(file, end + 10).ok_or(broken)?, word(file, end + 16).ok_or(broken)?);
        if count == 0xffff || at == 0xffff_ffff {
            return Err("a zip archive of 4 GiB or 65535 entries, which is no network that is known here".into());
        }
        let mut entries = HashMap::new();
        for _ in 0..count {
            if !file.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
                return Err(broken.into());
            }
            let field = |offset| short(file, at + offset).ok_or(broken);
            let (method, name, extra, comment) = (field(10)?, field(28)?, field(30)?, field(32)?);
            let size = word(file, at + 24).ok_or(broken)?;
            let header = word(file, at + 42).ok_or(broken)?;
            let name_end = at + 46 + name;
            let name = file.get(at + 46..name_end).ok_or(broken)?;
            let inside = name.iter().position(|&byte| byte == b'/').map_or(name, |slash| &name[slash + 1..]);
            entries.insert(inside, (header, size, method as u16));
            at = name_end + extra + comment;
        }
        Ok(Self { file, entries })
    }

    /// Where the bytes of an entry are, if there is one.
    pub(super) fn get(&self, name: &str) -> Checked<Option<Range<usize>>> {
        let Some(&(header, size, method)) = self.entries.get(name.as_bytes()) else { return Ok(None) };
        if method != 0 {
            return Err(format!("its entry {name} is compressed, which torch.save never does"));
        }
        let outside = || format!("its entry {name} lies outside the file");
        let lengths = (short(self.file, header + 26), short(self.file, header + 28));
        let (Some(name_length), Some(extra)) = lengths else { return Err(outside()) };
        let start = header + 30 + name_length + extra;
        let end = start.checked_add(size).filter(|&end| end <= self.file.len()).ok_or_else(outside)?;
        Ok(Some(start..end))
    }
}

/// The little-endian number of two bytes at `at`.
fn short(file: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

/// The little-endian number of four bytes at `at`.
fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?)).ok()
}
