//! The room of a chart, and two axes on it.

use std::fmt::Write as _;

use super::{Axis, Rule};
use crate::html::escape;

/// The room of a chart, in the units of its view box.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Whether the horizontal axis has its label.
    labelled: bool,
    /// The class of the `<svg>`, by which the style sheet sets its type.
    class: &'static str,
}

impl Size {
    /// One of several side by side.
    pub(crate) const CARD: Self = Self {
        width: 420.0,
        height: 220.0,
        left: 52.0,
        right: 12.0,
        top: 12.0,
        bottom: 38.0,
        labelled: true,
        class: "chart",
    };
    /// The picture of the page.
    pub(crate) const WIDE: Self = Self {
        width: 720.0,
        height: 270.0,
        left: 72.0,
        right: 22.0,
        top: 16.0,
        bottom: 50.0,
        labelled: true,
        class: "chart wide",
    };
    /// One above [`Size::WIDE`], with the same horizontal axis.
    pub(crate) const UPPER: Self = Self {
        height: 246.0,
        bottom: 26.0,
        labelled: false,
        ..Self::WIDE
    };
}

/// Two axes on their room.
pub(super) struct Plane {
    pub(super) size: Size,
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Plane {
    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let size = &self.size;
        (
            size.left + self.x.share(x) * (size.width - size.left - size.right),
            size.height - size.bottom - self.y.share(y) * (size.height - size.top - size.bottom),
        )
    }

    pub(super) fn open(&self, words: &str) -> String {
        let Size {
            width,
            height,
            class,
            ..
        } = self.size;
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
            escape(words)
        )
    }

    pub(super) fn axes(&self, out: &mut String, x_label: &str, y_label: &str) {
        let Size {
            width,
            height,
            left,
            right,
            top,
            bottom,
            ..
        } = self.size;
        let base = height - bottom;
        for tick in self.y.ticks() {
            let (_, ty) = self.at(self.x.low, tick);
            let _ = writeln!(
                out,
                "<line class=\"gridline\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{ty:.1}\" y2=\"{ty:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{ty:.1}\" dy=\".35em\" text-anchor=\"end\">{}</text>",
                width - right,
                left - 7.0,
                self.y.label(tick)
            );
        }
        for tick in self.x.ticks() {
            let (tx, _) = self.at(tick, self.y.low);
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{tx:.1}\" x2=\"{tx:.1}\" y1=\"{base:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{tx:.1}\" y=\"{:.1}\" dy=\".9em\" text-anchor=\"middle\">{}</text>",
                base + 4.0,
                base + 5.0,
                self.x.label(tick)
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>",
            width - right,
        );
        if self.size.labelled {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                (left + width - right) / 2.0,
                height - 5.0,
                escape(x_label),
            );
        }
        if !y_label.is_empty() {
            let (x, y) = (left * 0.2, (top + base) / 2.0);
            let _ = writeln!(
                out,
                "<text class=\"upright\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 {x:.1} {y:.1})\">{}</text>",
                escape(y_label)
            );
        }
    }

    /// A dashed line at a value of y, with its name at its right end.
    pub(super) fn rule(&self, out: &mut String, rule: &Rule) {
        let (left, y) = self.at(self.x.low, rule.value);
        let (right, _) = self.at(self.x.high, rule.value);
        let _ = writeln!(
            out,
            "<line class=\"rule\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"note\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y - 4.0,
            escape(&rule.name)
        );
    }

    /// A dashed line at a value of x, with its name at its upper end.
    pub(super) fn guide(&self, out: &mut String, guide: &Rule) {
        let (x, bottom) = self.at(guide.value, self.y.low);
        let (_, top) = self.at(guide.value, self.y.high);
        let (anchor, dx) = self.side(guide.value);
        let _ = writeln!(
            out,
            "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" y2=\"{top:.1}\"/>\
             <text class=\"note\" x=\"{:.1}\" y=\"{top:.1}\" dy=\".8em\" text-anchor=\"{anchor}\">{}</text>",
            x + dx,
            escape(&guide.name)
        );
    }

    /// On which side of `x` there is room for words.
    pub(super) fn side(&self, x: f64) -> (&'static str, f64) {
        match self.x.share(x) > 0.6 {
            true => ("end", -8.0),
            false => ("start", 8.0),
        }
    }
}
