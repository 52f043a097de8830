// SPDX-License-Identifier: MPL-2.0
//! `torchvideo`: a configuration's scenes checked, rendered, compared and served, from a command line.

mod serve;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser, Subcommand};
use gsttorchvideo::config::{Config, Preset, Scene, Wanted};
use gsttorchvideo::job::{self, Outcome, Told};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Makes videos of keyframe pictures, as a YAML file says.
#[derive(Parser)]
#[command(name = "torchvideo", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what scenes will be and take, and what is wrong or could be better; makes nothing
    ///
    /// Ends with 1 if a scene can't be made, and with 2 if the file is wrong.
    Check {
        #[command(flatten)]
        job: Job,
        /// Print JSON: a list with a report for each scene
        #[arg(long)]
        json: bool,
        /// Print the scenes as a configuration that says everything itself
        #[arg(long, conflicts_with = "json")]
        yaml: bool,
    },
    /// Makes the files of scenes; those that are there and made of the same are left alone
    ///
    /// Ends with 1 if a scene failed, and with 130 if it was interrupted. What it began is taken up again by the next run.
    Render {
        #[command(flatten)]
        job: Job,
        /// Scenes that are made at once
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
        jobs: usize,
        /// Make files again that are there
        #[arg(long)]
        again: bool,
    },
    /// Renders variants of a scene that differ in some values, measures them, and writes compare.html and compare.json
    ///
    /// Every value meets every value of the others. Variants that are there are not made again. Ends with 1 if one failed, and
    /// with 130 if it was interrupted.
    Sweep {
        #[command(flatten)]
        job: Job,
        /// What differs: video.motion_bucket_id=2,30; may be given several times
        #[arg(long, value_name = "KEY=VALUE,VALUE,…", required = true)]
        over: Vec<job::Over>,
        /// Variants that are made at once; their times are then not those of each alone
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
        jobs: usize,
        /// Make variants again that are there
        #[arg(long)]
        again: bool,
    },
    /// Serves scenes as live RTSP streams: each as /scene/ID, and all in turn as /live
    ///
    /// A scene is begun when somebody looks for the first time, and its clip is shown again and again from then on.
    /// /preview/ID and /preview/live show how the clip in the making looks so far. A page of this machine shows all scenes, and
    /// changes them while people watch. Ends when it is interrupted.
    Serve {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: serve::Serve,
    },
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes those of all commands and of the file's keys to a folder
    Man {
        /// The folder
        dir: Option<PathBuf>,
    },
}

/// What a job makes, and where.
#[derive(Args)]
struct Job {
    #[command(flatten)]
    which: Which,
    /// The folder for the files, before what the configuration says
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Which scenes are meant.
#[derive(Args)]
struct Which {
    /// The configuration, a YAML file
    config: PathBuf,
    /// A scene; may be given several times, and else all are meant
    #[arg(long, value_name = "ID")]
    scene_id: Vec<String>,
    /// A recommended plan, which goes before the file: none, balanced, quality or speed
    #[arg(long, value_name = "NAME", value_parser = preset)]
    preset: Option<Preset>,
    /// A value that goes before the file: video.num_inference_steps=50. Paths in it are relative to the current folder
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl Job {
    fn folder(&self, scene: &Scene) -> PathBuf {
        self.out.clone().unwrap_or_else(|| job::folder_of(scene, &self.which.config))
    }
}

impl Which {
    fn wanted(&self) -> Wanted {
        Wanted { preset: self.preset, values: self.set.clone() }
    }

    fn open(&self) -> Result<Config, String> {
        Config::open(&self.config, &self.wanted()).map_err(|err| err.to_string())
    }

    /// The scenes that are meant.
    fn scenes<'a>(&self, config: &'a Config) -> Result<Vec<&'a Scene>, String> {
        if config.scenes().is_empty() {
            return Err(format!("{}: it has no scenes: list them under scenes", self.config.display()));
        }
        if self.scene_id.is_empty() {
            return Ok(config.scenes().iter().collect());
        }
        self.scene_id.iter().map(|id| config.scene(id).map_err(|err| err.to_string())).collect()
    }
}

fn preset(name: &str) -> Result<Preset, String> {
    Preset::named(name).ok_or_else(|| format!("use {}", Preset::ALL.map(Preset::name).join(", ")))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "use 1 or more".into())
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE, as video.fps=16")?;
    Ok((key.into(), value.into()))
}

fn check(job: &Job, json: bool, yaml: bool) -> Result<bool, String> {
    let config = job.which.open()?;
    let scenes = job.which.scenes(&config)?;
    if yaml {
        print!("{}", Config::print(scenes));
        return Ok(true);
    }
    let reports: Vec<_> = scenes.iter().map(|scene| job::check(scene, &job.folder(scene))).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&reports).map_err(|err| err.to_string())?);
    } else {
        reports.iter().for_each(|report| println!("{report}"));
    }
    Ok(reports.iter().all(job::Report::is_possible))
}

/// A scene in the making: its bar, how far it was when that was said last, and when it began.
type Running = (Option<ProgressBar>, f64, Instant);

/// What is shown of scenes in the making: bars on a terminal, lines elsewhere.
struct Screen {
    /// The scenes' names.
    ids: Vec<String>,
    bars: Option<MultiProgress>,
    running: Mutex<HashMap<usize, Running>>,
}

impl Screen {
    fn new(ids: Vec<String>) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { ids, bars, running: Mutex::default() }
    }

    fn say(&self, line: String) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn tell(&self, number: usize, told: Told) {
        let id = &self.ids[number];
        match told {
            Told::Begun => {
                let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3} % {elapsed} {msg}");
                let bar = self.bars.as_ref().map(|bars| {
                    let bar = bars.add(ProgressBar::new(1000).with_prefix(id.clone()));
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.enable_steady_tick(Duration::from_secs(1));
                    bar
                });
                if bar.is_none() {
                    self.say(format!("{id}: begun"));
                }
                self.running.lock().unwrap().insert(number, (bar, 0.0, Instant::now()));
            }
            Told::Progress(text, done) => {
                let mut running = self.running.lock().unwrap();
                let Some((bar, before, begun)) = running.get_mut(&number) else { return };
                // From a twentieth on, what is left can be told.
                let spent = begun.elapsed().as_secs_f64();
                let left = (done > 0.05 && !text.contains("left"))
                    .then(|| format!(", {} left", job::time(spent / done * (1.0 - done))));
                let text = format!("{text}{}", left.unwrap_or_default());
                match bar {
                    Some(bar) => {
                        bar.set_position((done * 1000.0) as u64);
                        bar.set_message(text);
                    }
                    None if done >= *before + 0.1 => {
                        *before = done;
                        eprintln!("{id}: {:.0} %: {text}", done * 100.0);
                    }
                    None => {}
                }
            }
            Told::Warning(text) => self.say(format!("{id}: warning: {text}")),
            Told::Ended(outcome) => {
                if let Some((Some(bar), ..)) = self.running.lock().unwrap().remove(&number) {
                    bar.finish_and_clear();
                }
                self.say(match outcome {
                    Outcome::Rendered(seconds) => format!("{id}: made in {}", job::time(seconds)),
                    Outcome::UpToDate => format!("{id}: is there, made of the same"),
                    Outcome::Failed(reason) => format!("{id}: failed: {reason}"),
                    Outcome::Stopped => format!("{id}: stopped"),
                    Outcome::NotBegun => format!("{id}: not begun"),
                });
            }
        }
    }
}

fn render(job: &Job, jobs: usize, again: bool) -> Result<ExitCode, String> {
    let config = job.which.open()?;
    let scenes = job.which.scenes(&config)?;
    let screen = Screen::new(scenes.iter().map(|scene| scene.id.clone()).collect());
    let tell = |number, told| screen.tell(number, told);
    let with_folders = scenes.iter().map(|scene| (*scene, job.folder(scene))).collect();
    let outcomes = job::Job { scenes: with_folders, jobs, again, stop: stopper()?, tell: &tell }.run()?;
    Ok(summary(&outcomes))
}

/// What an interruption sets.
fn stopper() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    ctrlc::set_handler(move || stopping.store(true, Ordering::Relaxed)).map_err(|err| err.to_string())?;
    Ok(stop)
}

/// Says how many were made, and gives the exit code.
fn summary(outcomes: &[Outcome]) -> ExitCode {
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let made = count(|outcome| matches!(outcome, Outcome::Rendered(_)));
    let there = count(|outcome| matches!(outcome, Outcome::UpToDate));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let stopped = count(|outcome| matches!(outcome, Outcome::Stopped));
    let not_begun = count(|outcome| matches!(outcome, Outcome::NotBegun));
    let rest = [(failed, "failed"), (stopped, "stopped"), (not_begun, "not begun")];
    let rest = rest.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    eprintln!("{made} made, {there} were there{}", rest.collect::<String>());
    match (failed, stopped + not_begun) {
        (_, 1..) => ExitCode::from(130),
        (1.., _) => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    }
}

fn sweep(job: &Job, overs: Vec<job::Over>, jobs: usize, again: bool) -> Result<ExitCode, String> {
    let id = match &job.which.scene_id[..] {
        [] => None,
        [id] => Some(id.as_str()),
        _ => return Err("variants are of one scene: give --scene-id once".into()),
    };
    let sweep = job::Sweep::new(&job.which.config, &job.which.wanted(), id, overs, job.out.as_deref())?;
    let screen = Screen::new(sweep.variants.iter().map(|variant| variant.name.clone()).collect());
    let tell = |number, told| screen.tell(number, told);
    let scenes = sweep.variants.iter().map(|variant| (&variant.scene, variant.folder.clone())).collect();
    let stop = stopper()?;
    let outcomes = job::Job { scenes, jobs, again, stop: stop.clone(), tell: &tell }.run()?;
    let code = summary(&outcomes);
    match sweep.compare(&outcomes, &stop, &|line| screen.say(line))? {
        Some(page) => {
            println!("{}", page.display());
            Ok(code)
        }
        None => Ok(ExitCode::from(130)),
    }
}

fn run() -> Result<ExitCode, String> {
    let cli = Cli::parse();
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "torchvideo", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man { dir: None } => {
            let page = clap_mangen::Man::new(Cli::command());
            page.render(&mut std::io::stdout()).map_err(|err| err.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Check { .. }
        | Command::Render { .. }
        | Command::Sweep { .. }
        | Command::Serve { .. }
        | Command::Man { .. } => {}
    }
    gst::init().map_err(|err| err.to_string())?;
    gsttorchvideo::plugin_register_static().map_err(|err| err.to_string())?;
    match cli.command {
        Command::Check { job, json, yaml } => {
            let is_possible = check(&job, json, yaml)?;
            Ok(if is_possible { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Render { job, jobs, again } => render(&job, jobs, again),
        Command::Sweep { job, over, jobs, again } => sweep(&job, over, jobs, again),
        Command::Serve { which, how } => {
            let config = which.open()?;
            how.run(&which.scenes(&config)?)
        }
        Command::Man { dir: Some(dir) } => {
            let written = std::fs::create_dir_all(&dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
                .and_then(|()| std::fs::write(dir.join("torchvideo.5"), job::manual()));
            written.map_err(|err| format!("{}: {err}", dir.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { .. } | Command::Man { dir: None } => Ok(ExitCode::SUCCESS),
    }
}

fn main() -> ExitCode {
    // Who reads only the beginning of what is printed ends the program, as any other.
    // SAFETY: the default action is no function of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    run().unwrap_or_else(|message| {
        eprintln!("torchvideo: {message}");
        ExitCode::from(2)
    })
}
