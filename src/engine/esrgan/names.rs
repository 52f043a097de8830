// SPDX-License-Identifier: MPL-2.0
//! The names that a network's tensors have in files: basicsr's, which the networks here use, and those of ESRGAN's own
//! code before it, first (`model.1.sub.0.RDB1.conv1.0.weight`) and second (`RRDB_trunk.0.RDB1.conv1.weight`).

/// What trainers put before every name.
const PREFIXES: [&str; 5] = ["module.", "netG.", "generator.", "params_ema.", "params."];

/// How the names of one file become basicsr's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The length of what is before every name.
    prefix: usize,
    /// The doublings that a network of ESRGAN's first names has: its layers behind them are numbered on.
    doublings: Option<usize>,
}

impl Names {
    /// Reads from all names of a file how they are to be understood.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        let mut prefix = 0;
        while let Some(first) = names.first()
            && let Some(more) = PREFIXES.iter().find(|more| first.starts_with(*more))
            && names.iter().all(|name| name.starts_with(more))
        {
            prefix += more.len();
            names.iter_mut().for_each(|name| *name = &name[more.len()..]);
        }
        // conv_first, the blocks, three layers for each doubling (nothing, conv_up, nothing), conv_hr, nothing,
        // conv_last.
        let layer = |name: &&str| name.strip_prefix("model.")?.strip_suffix(".weight")?.parse::<usize>().ok();
        let last = names.iter().filter_map(layer).max();
        let doublings = last.and_then(|last| last.checked_sub(4)).filter(|rest| rest % 3 == 0).map(|rest| rest / 3);
        Self { prefix, doublings }
    }

    /// The name that basicsr has for this tensor of the file. What is of no such network stays as it is.
    pub fn current(&self, name: &str) -> String {
        let name = &name[self.prefix..];
        let parts: Vec<_> = name.split('.').collect();
        match parts[..] {
            ["model", layer, role] => match self.layer(layer) {
                Some(layer) => format!("{layer}.{role}"),
                None => name.into(),
            },
            ["model", "1", "sub", _, role @ ("weight" | "bias")] => format!("conv_body.{role}"),
            ["model", "1", "sub", block, rdb, conv, "0", role]
            | ["model", "1", "sub", block, rdb, conv @ "conv1x1", role]
            | ["RRDB_trunk", block, rdb, conv, role] => {
                format!("body.{block}.{}.{conv}.{role}", rdb.to_lowercase())
            }
            ["trunk_conv", role] => format!("conv_body.{role}"),
            ["HRconv", role] => format!("conv_hr.{role}"),
            [upconv, role] if upconv.starts_with("upconv") => format!("conv_up{}.{role}", &upconv["upconv".len()..]),
            _ => name.into(),
        }
    }

    /// The layer that ESRGAN's first code gives this number.
    fn layer(&self, number: &str) -> Option<String> {
        let (number, doublings) = (number.parse::<usize>().ok()?, self.doublings?);
        Some(match number {
            0 => "conv_first".into(),
            _ if number == 3 * doublings + 2 => "conv_hr".into(),
            _ if number == 3 * doublings + 4 => "conv_last".into(),
            _ if number % 3 == 0 && number <= 3 * doublings => format!("conv_up{}", number / 3),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_become_current_ones() {
        let names = Names::of(["model.0.weight", "model.10.weight", "model.8.weight"]);
        for (old, new) in [
            ("model.0.weight", "conv_first.weight"),
            ("model.1.sub.22.RDB3.conv5.0.bias", "body.22.rdb3.conv5.bias"),
            ("model.1.sub.2.RDB1.conv1x1.weight", "body.2.rdb1.conv1x1.weight"),
            ("model.1.sub.23.bias", "conv_body.bias"),
            ("model.6.weight", "conv_up2.weight"),
            ("model.8.weight", "conv_hr.weight"),
            ("model.10.weight", "conv_last.weight"),
            ("RRDB_trunk.2.RDB1.conv1.weight", "body.2.rdb1.conv1.weight"),
            ("upconv1.weight", "conv_up1.weight"),
            ("HRconv.bias", "conv_hr.bias"),
            ("body.0.weight", "body.0.weight"),
            ("model.7.weight", "model.7.weight"),
            ("model.9.weight", "model.9.weight"),
        ] {
            assert_eq!(names.current(old), new);
        }
    }

    #[test]
    fn the_last_layers_number_tells_the_doublings() {
        for (last, numbers) in [
            (4, [(2, "conv_hr"), (4, "conv_last"), (3, "model.3")].as_slice()),
            (7, &[(3, "conv_up1"), (5, "conv_hr"), (7, "conv_last"), (6, "model.6")]),
            (13, &[(3, "conv_up1"), (6, "conv_up2"), (9, "conv_up3"), (11, "conv_hr"), (13, "conv_last")]),
            (16, &[(12, "conv_up4"), (14, "conv_hr"), (16, "conv_last"), (15, "model.15")]),
            (12, &[(0, "model.0"), (12, "model.12")]),
            (3, &[(0, "model.0")]),
        ] {
            let all = ["model.0.weight".to_string(), format!("model.{last}.weight")];
            let names = Names::of(all.iter().map(String::as_str));
            for (number, layer) in numbers {
                assert_eq!(names.current(&format!("model.{number}.bias")), format!("{layer}.bias"), "{last}");
            }
        }
    }

    #[test]
    fn what_is_before_every_name_is_left_out() {
        let names = Names::of(["params_ema.module.body.0.weight", "params_ema.module.conv_first.weight"]);
        assert_eq!(names.current("params_ema.module.body.0.weight"), "body.0.weight");
        // Not before every one.
        let names = Names::of(["module.body.0.weight", "conv_first.weight"]);
        assert_eq!(names.current("module.body.0.weight"), "module.body.0.weight");
        let names = Names::of(["module.model.0.weight", "module.model.7.weight"]);
        assert_eq!(names.current("module.model.5.weight"), "conv_hr.weight");
        assert_eq!(Names::of([]), Names { prefix: 0, doublings: None });
    }
}
