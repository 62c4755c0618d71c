use serde::{Deserialize, Serialize};

/// A place in data that is read epoch after epoch; saved with a checkpoint, it is all a resumed run needs to see the very same rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCursor {
    /// Complete passes over the data.
    pub epoch: u64,
    /// Rows already read of the present pass.
    pub position: usize,
}

impl DataCursor {
    /// The next `count` of `rows` rows, running on into the next epoch where this one ends.
    ///
    /// `order` gives the permutation of an epoch: a function of seed and epoch alone (`rlhf_dataset::order`).
    /// With no rows there is nothing to return.
    pub fn next(
        &mut self,
        rows: usize,
        count: usize,
        order: impl Fn(u64) -> Vec<usize>,
    ) -> Vec<usize> {
        let mut taken = Vec::with_capacity(count);
        while rows > 0 && taken.len() < count {
            let end = rows.min(self.position + count - taken.len());
            taken.extend_from_slice(&order(self.epoch)[self.position..end]);
            self.position = end;
            if end == rows {
                *self = Self {
                    epoch: self.epoch + 1,
                    position: 0,
                };
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(epoch: u64) -> Vec<usize> {
        (0..5).map(|i| (i + epoch as usize) % 5).collect()
    }

    #[test]
    fn every_epoch_is_read_in_its_order_whatever_the_batch() {
        let expected: Vec<usize> = (0..4).flat_map(turned).collect();
        for count in [1, 2, 3, 5, 7, 12] {
            let mut cursor = DataCursor::default();
            let mut read = Vec::new();
            while read.len() < 20 {
                let batch = cursor.next(5, count, turned);
                assert_eq!(batch.len(), count);
                read.extend(batch);
            }
            assert_eq!(read[..20], expected);
        }
    }

    #[test]
    fn a_saved_cursor_continues_with_the_next_row() {
        let mut cursor = DataCursor::default();
        cursor.next(5, 7, turned);
        assert_eq!(
            cursor,
            DataCursor {
                epoch: 1,
                position: 2
            }
        );
        let mut loaded: DataCursor = serde_json::from_value(serde_json::json!(cursor)).unwrap();
        assert_eq!(loaded.next(5, 4, turned), cursor.next(5, 4, turned));
    }

    #[test]
    fn no_rows_give_none() {
        assert!(DataCursor::default().next(0, 3, turned).is_empty());
    }
}
