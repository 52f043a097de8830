// SPDX-License-Identifier: MPL-2.0
//! The rules of the house that a program can check.

use gst::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The files below a folder that end in `.extension`.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file in {folder}");
    found
}

/// The identifiers of a line of code, without its comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Whether a line of code names GStreamer or GLib: `gst`, `gst_video`, `glib`, `GstBuffer`, ...
fn knows_gstreamer(line: &str) -> bool {
    words(line).any(|word| {
        let part = word.split('_').next().unwrap().to_lowercase();
        matches!(part.as_str(), "gst" | "gstreamer" | "glib" | "gobject" | "gio") || word.starts_with("Gst")
    })
}

#[test]
fn the_engine_does_not_know_gstreamer() {
    assert!(knows_gstreamer("use gst::prelude::*;") && knows_gstreamer("let x = gst_video::X;"));
    assert!(knows_gstreamer("fn f(e: glib::BoolError)") && !knows_gstreamer("let largest = 1; // gst"));
    for file in files("src/engine", "rs") {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            assert!(!knows_gstreamer(line), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

#[test]
fn timing_knows_neither_gstreamer_nor_tensors() {
    for (number, line) in read("src/timing.rs").lines().enumerate() {
        let knows_more = words(line).any(|word| matches!(word, "tch" | "Tensor" | "engine" | "crate"));
        assert!(!knows_gstreamer(line) && !knows_more, "src/timing.rs:{}: {line}", number + 1);
    }
}

#[test]
fn every_source_file_names_its_licence() {
    let sources = ["src", "tests", "examples", "benches"].iter().flat_map(|folder| files(folder, "rs"));
    for file in sources.chain([root().join("build.rs")]) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("// SPDX-License-Identifier: MPL-2.0\n"), "{}", file.display());
    }
    assert!(read("examples/embed.c").starts_with("// SPDX-License-Identifier: MPL-2.0\n"));
    let scripts = [("scripts", "sh"), ("models", "sh"), ("tests", "py"), ("examples", "py")];
    for file in scripts.iter().flat_map(|(folder, extension)| files(folder, extension)) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().take(3).any(|l| l == "# SPDX-License-Identifier: MPL-2.0"), "{}", file.display());
    }
}

#[test]
fn meson_and_cargo_agree() {
    let line = format!("version : '{}'", env!("CARGO_PKG_VERSION"));
    assert!(read("meson.build").contains(&line), "meson.build does not say {line}");
    assert!(read("meson.build").contains(&format!("project('{}'", env!("CARGO_PKG_NAME"))));
}

/// A launch file's command: what is not a comment.
fn command(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("# "), "{}: begins with a line that says what it is", file.display());
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 1, "{}: one line to copy", file.display());
    lines[0].to_owned()
}

/// The pipeline of a `gst-launch-1.0` command.
fn pipeline(command: &str) -> &str {
    let rest = command.strip_prefix("gst-launch-1.0 ").unwrap_or_else(|| panic!("not a launch line: {command}"));
    rest.strip_prefix("-e ").unwrap_or(rest)
}

#[test]
fn every_launch_line_parses() {
    gst::init().unwrap();
    gsttorchvideo::plugin_register_static().unwrap();
    for file in files("pipelines", "launch") {
        let line = command(&file);
        let mut missing = BTreeSet::new();
        let text = fs::read_to_string(&file).unwrap();
        let optional = text.lines().find_map(|line| line.strip_prefix("# Needs ")?.split([',', '.']).next());
        if optional.is_some_and(|factory| gst::ElementFactory::find(factory).is_none()) {
            println!("{}: not parsed, there is no {}", file.display(), optional.unwrap());
            continue;
        }
        for factory in pipeline(&line).split(" ! ").map(|element| element.split(' ').next().unwrap()) {
            // Caps and pads are no elements.
            let is_element = !factory.contains('/') && !factory.ends_with('.');
            if is_element && gst::ElementFactory::find(factory).is_none() {
                missing.insert(factory);
            }
        }
        assert!(missing.is_empty(), "{}: this system has no {missing:?}; `make setup` installs it", file.display());
        let parsed = gst::parse::launch_full(pipeline(&line), None, gst::ParseFlags::FATAL_ERRORS);
        let parsed = parsed.unwrap_or_else(|err| panic!("{}: {err}", file.display()));
        parsed.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn the_documents_name_the_launch_lines() {
    let (readme, table) = (read("README.md"), read("pipelines/README.md"));
    let lines: Vec<_> = files("pipelines", "launch").iter().map(|file| command(file)).collect();
    for file in files("pipelines", "launch") {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(table.contains(&format!("`{name}`")), "pipelines/README.md does not name {name}");
    }
    // A launch line in the README may be broken with backslashes.
    let joined = (readme + &read("docs/embedding.md")).replace("\\\n", " ");
    for shown in joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")) {
        if shown.starts_with("gst-launch-1.0") {
            assert!(lines.contains(&shown), "a document has a launch line that is not in pipelines: {shown}");
        }
    }
}
