//! The durable record of what a snapshot holds: one line a record, each with a checksum.
//!
//! A record says that its extents were synced before it was written. A torn last line (a crash while it was written)
//! is cut off. Records name their extents themselves, so they stay true when a snapshot is cut differently later and
//! for every other snapshot that shares a blob.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::disk;
use super::error::StoreError;
use super::{Source, locked};
use crate::segment::{BlobId, Extent, PieceHashes, Segment};
use crate::verify::Checkpoint;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(super) enum Record {
    /// A segment is durable.
    Held {
        segment: u32,
        /// Blob id, offset, length.
        extents: Vec<(String, u64, u64)>,
        pieces: PieceHashes,
        /// Where its bytes came from; absent when another snapshot had them here already.
        from: Option<Source>,
    },
    /// How far a blob was hashed: of bytes that records before it say are durable.
    Hashed {
        blob: String,
        #[serde(flatten)]
        checkpoint: Checkpoint,
    },
    /// Bytes received by segments whose records were dropped.
    Received { origin: u64, peer: u64 },
    /// Of a later version: what else the journal says is true all the same.
    #[serde(other)]
    Unknown,
}

impl Record {
    pub(super) fn held(segment: &Segment, pieces: PieceHashes, from: Option<Source>) -> Self {
        Self::Held {
            segment: segment.index,
            extents: segment
                .extents
                .iter()
                .map(|extent| (extent.blob.to_string(), extent.offset, extent.len))
                .collect(),
            pieces,
            from,
        }
    }

    pub(super) fn hashed(blob: BlobId, checkpoint: Checkpoint) -> Self {
        Self::Hashed {
            blob: blob.to_string(),
            checkpoint,
        }
    }

    /// Its extents; those of an unreadable blob id are left out.
    pub(super) fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Held { extents, .. } => extents
                .iter()
                .filter_map(|(blob, offset, len)| {
                    let blob: BlobId = blob.parse().ok()?;
                    offset.checked_add(*len)?;
                    Some(Extent {
                        blob,
                        offset: *offset,
                        len: *len,
                    })
                })
                .collect(),
            Self::Hashed { .. } | Self::Received { .. } | Self::Unknown => Vec::new(),
        }
    }

    /// Whether it says anything of one of these (blob, start, end).
    fn touches(&self, gone: &[(BlobId, u64, u64)]) -> bool {
        match self {
            Self::Hashed { blob, checkpoint } => gone
                .iter()
                .any(|(id, start, _)| id.to_string() == *blob && *start < checkpoint.position),
            Self::Held { .. } | Self::Received { .. } | Self::Unknown => {
                self.extents().iter().any(|extent| {
                    gone.iter().any(|(blob, start, end)| {
                        extent.blob == *blob
                            && extent.offset < *end
                            && extent.offset + extent.len > *start
                    })
                })
            }
        }
    }

    /// Bytes received by it: from the origin, from peers.
    pub(super) fn received(&self) -> (u64, u64) {
        match self {
            Self::Held { from, extents, .. } => {
                let len = extents.iter().map(|(_, _, len)| len).sum();
                match from {
                    Some(Source::Origin) => (len, 0),
                    Some(Source::Peer) => (0, len),
                    None => (0, 0),
                }
            }
            Self::Hashed { .. } | Self::Unknown => (0, 0),
            Self::Received { origin, peer } => (*origin, *peer),
        }
    }
}

/// The journal of one snapshot. Opened for each append, so that it holds no descriptor.
pub(super) struct Journal {
    path: PathBuf,
    staging: PathBuf,
    /// Length of its valid part; `None`: the file is not there yet.
    len: Mutex<Option<u64>>,
}

impl Journal {
    /// The journal of `snapshot` and its records so far. Cuts off a torn tail.
    pub(super) fn open(
        directory: &Path,
        tmp: &Path,
        snapshot: &str,
    ) -> Result<(Self, Vec<Record>), StoreError> {
        let path = directory.join(snapshot);
        let mut records = Vec::new();
        let len = match fs::read(&path) {
            Ok(bytes) => {
                let (found, valid) = parse(&bytes);
                if valid < bytes.len() {
                    tracing::warn!(journal = %path.display(), bytes = bytes.len() - valid, "cutting off a torn record");
                    let file = OpenOptions::new()
                        .write(true)
                        .open(&path)
                        .map_err(|error| StoreError::io("open", &path, error))?;
                    disk::resize(&file, &path, valid as u64)?;
                    disk::sync_file(&file, &path)?;
                }
                records = found;
                Some(valid as u64)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        let journal = Self {
            staging: tmp.join(format!("journal-{snapshot}")),
            path,
            len: Mutex::new(len),
        };
        Ok((journal, records))
    }

    /// Its records as they are on disk.
    pub(super) fn records(&self) -> Result<Vec<Record>, StoreError> {
        let _len = locked(&self.len);
        self.read()
    }

    fn read(&self) -> Result<Vec<Record>, StoreError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(parse(&bytes).0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(StoreError::io("read", &self.path, error)),
        }
    }

    /// Adds records; they are durable when this returns.
    pub(super) fn append(&self, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut len = locked(&self.len);
        let fail = |error| StoreError::io("write", &self.path, error);
        let (file, created) = match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk::write_file(&self.path, &[], disk::LISTING)?;
                let file = OpenOptions::new().write(true).open(&self.path);
                (file.map_err(fail)?, true)
            }
            Err(error) => return Err(fail(error)),
        };
        let start = if created { 0 } else { len.unwrap_or(0) };
        let text: String = records.iter().map(line).collect();
        // Always at the end of the valid part: what a failed write left there is written over.
        disk::write_at(&file, &self.path, start, text.as_bytes()).map_err(fail)?;
        self.sync(&file, created || len.is_none())?;
        *len = Some(start + text.len() as u64);
        Ok(())
    }

    fn sync(&self, file: &File, created: bool) -> Result<(), StoreError> {
        disk::sync_file(file, &self.path)?;
        match self.path.parent() {
            Some(directory) if created => disk::sync_directory(directory),
            _ => Ok(()),
        }
    }

    /// Drops every record that touches one of `gone` (blob, start, end), in one step. The bytes they received stay
    /// counted.
    pub(super) fn drop_extents(&self, gone: &[(BlobId, u64, u64)]) -> Result<(), StoreError> {
        let mut len = locked(&self.len);
        let records = self.read()?;
        let (mut origin, mut peer) = (0, 0);
        let mut kept = Vec::new();
        let before = records.len();
        for record in records {
            if record.touches(gone) {
                let (o, p) = record.received();
                origin += o;
                peer += p;
            } else {
                kept.push(record);
            }
        }
        if kept.len() == before {
            return Ok(());
        }
        if origin + peer > 0 {
            kept.push(Record::Received { origin, peer });
        }
        let text: String = kept.iter().map(line).collect();
        disk::write_file(&self.staging, text.as_bytes(), disk::LISTING)?;
        disk::rename(&self.staging, &self.path)?;
        *len = Some(text.len() as u64);
        match self.path.parent() {
            Some(directory) => disk::sync_directory(directory),
            None => Ok(()),
        }
    }
}

/// The first 64 bits of the SHA-256 of a line's text, as hex.
pub(super) fn checksum(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(String::new(), |sum, byte| format!("{sum}{byte:02x}"))
}

fn line(record: &Record) -> String {
    // Strings and numbers only: this cannot fail, and an empty line would only be read as torn.
    let text = serde_json::to_string(record).unwrap_or_default();
    format!("{} {text}\n", checksum(&text))
}

/// The records of the valid part and its length.
fn parse(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut valid = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(record) = parse_line(line) else {
            break;
        };
        records.push(record);
        valid += line.len();
    }
    (records, valid)
}

fn parse_line(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (sum, text) = text.split_once(' ')?;
    (sum == checksum(text)).then(|| serde_json::from_str(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::{Journal, Record};
    use crate::segment::{BlobId, Extent, PieceHashes, Segment};
    use crate::store::Source;

    const BLOB: BlobId = BlobId::Git([7; 20]);

    fn record(index: u32) -> Record {
        let segment = Segment {
            index,
            extents: vec![Extent {
                blob: BLOB,
                offset: u64::from(index) * 10,
                len: 10,
            }],
        };
        Record::held(
            &segment,
            PieceHashes::new(vec![[1; 20]]),
            Some(Source::Peer),
        )
    }

    #[test]
    fn a_torn_tail_is_cut_off_wherever_it_tore() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let open = || Journal::open(root.path(), root.path(), "s").unwrap();
        let (journal, none) = open();
        assert!(none.is_empty());
        journal.append(&[record(0), record(1)]).unwrap();
        let two = std::fs::read(&path).unwrap();
        journal.append(&[record(2)]).unwrap();
        let three = std::fs::read(&path).unwrap();
        for cut in two.len()..three.len() {
            std::fs::write(&path, &three[..cut]).unwrap();
            let (journal, records) = open();
            assert_eq!(records, vec![record(0), record(1)], "cut at {cut}");
            journal.append(&[record(3)]).unwrap();
            assert_eq!(open().1, vec![record(0), record(1), record(3)]);
        }
        let mut flipped = three.clone();
        flipped[two.len() + 30] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(open().1.len(), 2);
    }

    #[test]
    fn a_record_of_a_later_version_hides_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(root.path(), root.path(), "s").unwrap();
        journal.append(&[record(0)]).unwrap();
        let path = root.path().join("s");
        let text = r#"{"type":"moved","to":[1,2]}"#;
        let mut all = std::fs::read_to_string(&path).unwrap();
        all += &[&super::checksum(text), " ", text, "\n"].concat();
        std::fs::write(&path, all).unwrap();
        let open = || Journal::open(root.path(), root.path(), "s").unwrap();
        open().0.append(&[record(1)]).unwrap();
        assert_eq!(open().1, [record(0), Record::Unknown, record(1)]);
        open().0.drop_extents(&[(BLOB, 0, 10)]).unwrap();
        assert!(open().1.contains(&record(1)));
    }

    #[test]
    fn dropped_records_leave_their_bytes_counted() {
        let root = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(root.path(), root.path(), "s").unwrap();
        journal.append(&[record(0), record(1), record(2)]).unwrap();
        journal.drop_extents(&[(BLOB, 5, 15)]).unwrap();
        let rest = journal.records().unwrap();
        assert_eq!(
            rest,
            vec![
                record(2),
                Record::Received {
                    origin: 0,
                    peer: 20
                }
            ]
        );
        journal.append(&[record(0)]).unwrap();
        assert_eq!(journal.records().unwrap().len(), 3);
    }

    fn hashed(position: u64) -> Record {
        let checkpoint = serde_json::json!({ "position": position, "state": "00" });
        Record::hashed(BLOB, serde_json::from_value(checkpoint).unwrap())
    }

    #[test]
    fn how_far_a_blob_was_hashed_goes_with_its_bytes() {
        let root = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(root.path(), root.path(), "s").unwrap();
        let all = [record(0), hashed(10), record(1), hashed(20), record(2)];
        journal.append(&all).unwrap();
        journal.drop_extents(&[(BLOB, 20, 30)]).unwrap();
        assert_eq!(journal.records().unwrap()[..4], all[..4]);
        let other = BlobId::Git([8; 20]);
        journal.drop_extents(&[(other, 0, 30)]).unwrap();
        assert_eq!(journal.records().unwrap()[..4], all[..4]);
        journal.drop_extents(&[(BLOB, 19, 20)]).unwrap();
        let rest = journal.records().unwrap();
        assert_eq!(rest[..2], all[..2]);
        assert!(matches!(
            rest[2..],
            [Record::Received { .. }, Record::Received { .. }]
        ));
    }
}
