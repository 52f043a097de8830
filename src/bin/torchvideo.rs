// SPDX-License-Identifier: MPL-2.0
//! `torchvideo`: a configuration's scenes checked, rendered and compared, from a command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use gsttorchvideo::config::{Config, Preset, Scene, Wanted};
use gsttorchvideo::job;

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
    /// Ends with 1 if a scene can't be made.
    Check {
        #[command(flatten)]
        job: Job,
        /// Print JSON: a list with a report for each scene
        #[arg(long)]
        json: bool,
    },
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man,
}

/// What a job is about.
#[derive(Args)]
struct Job {
    /// The configuration, a YAML file
    config: PathBuf,
    /// A scene; may be given several times, and else all are meant
    #[arg(long, value_name = "ID")]
    scene_id: Vec<String>,
    /// A recommended plan, which goes before the file: none, balanced, quality or speed
    #[arg(long, value_name = "NAME", value_parser = preset)]
    preset: Option<Preset>,
    /// A value that goes before the file: video.num_inference_steps=50
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// The folder for the files, before what the configuration says
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Job {
    fn open(&self) -> Result<Config, String> {
        let wanted = Wanted { preset: self.preset.unwrap_or_default(), values: self.set.clone() };
        Config::open(&self.config, &wanted).map_err(|err| err.to_string())
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

    fn folder(&self, scene: &Scene) -> PathBuf {
        self.out.clone().unwrap_or_else(|| job::folder_of(scene, &self.config))
    }
}

fn preset(name: &str) -> Result<Preset, String> {
    Preset::named(name).ok_or_else(|| format!("use {}", Preset::ALL.map(Preset::name).join(", ")))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE, as video.fps=16")?;
    Ok((key.into(), value.into()))
}

fn check(job: &Job, json: bool) -> Result<bool, String> {
    let config = job.open()?;
    let scenes = job.scenes(&config)?;
    let reports: Vec<_> = scenes.iter().map(|scene| job::check(scene, &job.folder(scene))).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&reports).map_err(|err| err.to_string())?);
    } else {
        reports.iter().for_each(|report| println!("{report}"));
    }
    Ok(reports.iter().all(job::Report::is_possible))
}

fn run() -> Result<bool, String> {
    let cli = Cli::parse();
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "torchvideo", &mut std::io::stdout());
            return Ok(true);
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Cli::command());
            page.render(&mut std::io::stdout()).map_err(|err| err.to_string())?;
            return Ok(true);
        }
        Command::Check { .. } => {}
    }
    gst::init().map_err(|err| err.to_string())?;
    gsttorchvideo::plugin_register_static().map_err(|err| err.to_string())?;
    match cli.command {
        Command::Check { job, json } => check(&job, json),
        Command::Completions { .. } | Command::Man => Ok(true),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("torchvideo: {message}");
            ExitCode::from(2)
        }
    }
}
