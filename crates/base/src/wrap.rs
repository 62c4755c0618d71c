//! Lines broken at words.

/// `text` with each line that is wider than `width` broken at blanks. What goes on stands under the line's last column, which a gap of two
/// blanks begins, or two further in than the line. Escape sequences of colours take no room.
///
/// ```
/// let row = "  memory  about 3 GiB: weights and moments";
/// assert_eq!(rlhf_base::wrap(row, 30), "  memory  about 3 GiB: weights\n          and moments");
/// ```
pub fn wrap(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (line, ""),
        };
        if visible_width(line) <= width {
            out.push_str(line);
        } else {
            wrap_line(line, width, &mut out);
        }
        out.push_str(end);
    }
    out
}

fn wrap_line(line: &str, width: usize, out: &mut String) {
    let indent = hanging_indent(line, width);
    let (mut taken, mut has_word) = (0, false);
    for piece in line.split_inclusive(' ') {
        let word = piece.trim_end_matches(' ');
        if has_word && !word.is_empty() && taken + visible_width(word) > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            taken = indent;
        }
        has_word |= !word.is_empty();
        out.push_str(piece);
        taken += visible_width(piece);
    }
}

/// Where the line goes on: at its last column, or a little further in than it begins. No column in the right half counts as one.
fn hanging_indent(line: &str, width: usize) -> usize {
    let start = line.len() - line.trim_start_matches(' ').len();
    let gaps = line.match_indices("  ").filter(|(at, _)| *at > start);
    let column = |(at, _): (usize, &str)| {
        let rest = line[at..].trim_start_matches(' ');
        visible_width(&line[..line.len() - rest.len()])
    };
    let columns = gaps.map(column).filter(|column| *column <= width / 2);
    columns.last().unwrap_or((start + 2).min(width / 2))
}

/// Characters, without those of escape sequences (`ESC [ … m`).
fn visible_width(text: &str) -> usize {
    let mut width = 0;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                letters.by_ref().find(char::is_ascii_alphabetic);
            }
            _ => width += 1,
        }
    }
    width
}

/// `text` as stdout shows it best: broken at words where it is a terminal, otherwise as it is.
pub fn for_stdout(text: &str) -> String {
    broken(text, terminal_size::terminal_size_of(std::io::stdout()))
}

/// The same for stderr.
pub fn for_stderr(text: &str) -> String {
    broken(text, terminal_size::terminal_size_of(std::io::stderr()))
}

fn broken(text: &str, size: Option<(terminal_size::Width, terminal_size::Height)>) -> String {
    match size {
        // Some terminals report a width of 0 where they know none.
        Some((width, _)) if width.0 >= 20 => wrap(text, usize::from(width.0)),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_and_columns_stand_below_each_other() {
        let doctor = "  ok    memory  one two three four five\nshort\n";
        let broken = "  ok    memory  one two three\n                four five\nshort\n";
        assert_eq!(wrap(doctor, 32), broken);
        assert_eq!(
            wrap("a sentence that is long", 12),
            "a sentence\n  that is\n  long"
        );
        // A word longer than the line is left to the terminal.
        assert_eq!(
            wrap("see /a/very/long/path now", 10),
            "see\n  /a/very/long/path\n  now"
        );
        assert_eq!(wrap("six or seven é words", 12), "six or seven\n  é words");
    }

    #[test]
    fn colours_take_no_room() {
        let green = "\u{1b}[32mok\u{1b}[0m and so on";
        assert_eq!(wrap(green, 12), green);
        assert_eq!(wrap(green, 9), "\u{1b}[32mok\u{1b}[0m and so\n  on");
    }
}
