//! A line chart as inline SVG. Colours come from the page's style, so that it follows light and dark.

use std::fmt::Write;

/// The drawing area, in the SVG's own unit.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// The scale of an axis.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AxisScale {
    /// From 0 on.
    Linear,
    /// By powers of ten.
    Log,
    /// The same, with ticks at the values that there are.
    Steps,
    /// Quantiles, by the number of their nines.
    Nines,
}

pub(super) struct ChartAxis {
    pub(super) label: &'static str,
    pub(super) scale: AxisScale,
    pub(super) shown: fn(f64) -> String,
}

pub(super) struct ChartSeries {
    pub(super) name: String,
    /// Which of the page's colours; those beyond them are drawn dashed.
    pub(super) colour: usize,
    pub(super) is_dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) has_dots: bool,
}

pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: ChartAxis,
    pub(super) y: ChartAxis,
    pub(super) series: Vec<ChartSeries>,
}

impl Chart {
    /// A figure with its legend; nothing if there is nothing to be drawn.
    pub(super) fn render(&self) -> String {
        let xs = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
        let ys = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let (Some(x), Some(y)) = (Span::of(&self.x, xs), Span::of(&self.y, ys)) else {
            return String::new();
        };
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escaped(&self.title),
            escaped(&self.title)
        );
        let across = |value: f64| LEFT + x.part(value) * (WIDTH - LEFT - RIGHT);
        let up = |value: f64| HEIGHT - BOTTOM - y.part(value) * (HEIGHT - TOP - BOTTOM);
        self.axes(&mut svg, &x, &y, across, up);
        for series in &self.series {
            series.draw(&mut svg, self, across, up);
        }
        svg + "</svg>" + &self.legend() + "</figure>"
    }

    fn axes(
        &self,
        svg: &mut String,
        x: &Span,
        y: &Span,
        across: impl Fn(f64) -> f64,
        up: impl Fn(f64) -> f64,
    ) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let (at, text) = (up(tick), (self.y.shown)(tick));
            add(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>"));
            let (left, at) = (LEFT - 6.0, at + 4.0);
            add(svg, format_args!("<text class=\"y\" x=\"{left}\" y=\"{at:.1}\">{text}</text>"));
        }
        for tick in x.ticks() {
            let (at, text) = (across(tick), (self.x.shown)(tick));
            add(svg, format_args!("<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>"));
            let below = bottom + 16.0;
            add(svg, format_args!("<text class=\"x\" x=\"{at:.1}\" y=\"{below}\">{text}</text>"));
        }
        let (middle, below) = (f64::midpoint(LEFT, right), HEIGHT - 6.0);
        let label = format!("→ {}   ↑ {}", self.x.label, self.y.label);
        let label = escaped(&label);
        add(
            svg,
            format_args!("<text class=\"x label\" x=\"{middle}\" y=\"{below}\">{label}</text>"),
        );
    }

    fn legend(&self) -> String {
        let entry = |series: &ChartSeries| {
            let (class, name) = (series.class(), escaped(&series.name));
            format!(
                "<span><svg class=\"key\" viewBox=\"0 0 24 8\"><path class=\"{class}\" d=\"M0 4H24\"/>\
                 </svg>{name}</span>"
            )
        };
        format!("<div class=\"legend\">{}</div>", self.series.iter().map(entry).collect::<String>())
    }
}

impl ChartSeries {
    fn class(&self) -> String {
        format!("line c{}{}", self.colour, if self.is_dashed { " dashed" } else { "" })
    }

    fn draw(
        &self,
        svg: &mut String,
        chart: &Chart,
        across: impl Fn(f64) -> f64,
        up: impl Fn(f64) -> f64,
    ) {
        let mut path = String::new();
        for (index, &(x, y)) in self.points.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            add(&mut path, format_args!("{verb}{:.1} {:.1}", across(x), up(y)));
        }
        add(svg, format_args!("<path class=\"{}\" d=\"{path}\"/>", self.class()));
        for &(x, y) in self.points.iter().filter(|_| self.has_dots) {
            let (name, at, is) = (escaped(&self.name), (chart.x.shown)(x), (chart.y.shown)(y));
            let (x, y, colour) = (across(x), up(y), self.colour);
            add(
                svg,
                format_args!(
                    "<circle class=\"dot d{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{name}, \
                     {at}: {is}</title></circle>"
                ),
            );
        }
    }
}

/// The part of an axis that is shown.
struct Span {
    scale: AxisScale,
    from: f64,
    to: f64,
    steps: Vec<f64>,
}

impl Span {
    fn of(axis: &ChartAxis, values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut steps: Vec<f64> = values.collect();
        let placed = steps.iter().map(|&value| place(axis.scale, value));
        let placed = placed.filter(|value| value.is_finite());
        let (from, to) = placed.fold((f64::MAX, f64::MIN), |(a, b), it| (a.min(it), b.max(it)));
        if from > to {
            return None;
        }
        let (from, to) = match axis.scale {
            AxisScale::Linear => (0.0, to * 1.05),
            // A little room beyond, and never less than a third of a decade.
            AxisScale::Log | AxisScale::Steps => (from - 0.05, (to + 0.05).max(from + 0.3)),
            AxisScale::Nines => (0.0, to.max(1.0)),
        };
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let to = if to > from { to } else { from + 1.0 };
        Some(Self { scale: axis.scale, from, to, steps })
    }

    /// The place on the axis, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        ((place(self.scale, value) - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            AxisScale::Linear => {
                let step = round_step((self.to - self.from) / 5.0);
                let count = (self.to / step).floor() as usize;
                (0..=count).map(|index| index as f64 * step).collect()
            }
            AxisScale::Log => self.log_ticks(),
            AxisScale::Steps => self.steps.clone(),
            AxisScale::Nines => {
                let all = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                all.into_iter().filter(|&q| place(AxisScale::Nines, q) <= self.to + 1e-9).collect()
            }
        }
    }

    /// 1, 2 and 5 of each decade; 1 and 3, or 1 alone, if that would be too many.
    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.from.floor() as i32..=self.to.ceil() as i32;
        let of = |factors: &'static [f64]| -> Vec<f64> {
            let all = decades
                .clone()
                .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
            all.filter(|tick| (self.from..=self.to).contains(&tick.log10())).collect()
        };
        let finer = [of(&[1.0, 2.0, 5.0]), of(&[1.0, 3.0])];
        finer.into_iter().find(|ticks| ticks.len() <= 7).unwrap_or_else(|| of(&[1.0]))
    }
}

fn place(scale: AxisScale, value: f64) -> f64 {
    match scale {
        AxisScale::Linear => value,
        AxisScale::Log | AxisScale::Steps => value.log10(),
        AxisScale::Nines => -(1.0 - value).log10(),
    }
}

/// The next of 1, 2, 5, 10, 20, …
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

/// Text for HTML.
pub(super) fn escaped(text: &str) -> String {
    let replaced = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    replaced.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let span = |scale, from, to| Span { scale, from, to, steps: Vec::new() };
        assert_eq!(span(AxisScale::Linear, 0.0, 43.0).ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(span(AxisScale::Log, 0.0, 1.0).ticks(), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(span(AxisScale::Nines, 0.0, 2.0).ticks(), [0.0, 0.5, 0.9, 0.99]);
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escaped("<a \"b\" & c>"), "&lt;a &quot;b&quot; &amp; c&gt;");
    }
}
