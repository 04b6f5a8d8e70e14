//! `inazuma man` and `inazuma completions`: the manual's pages and what shells complete, from the command line itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Cli;

/// Write the manual's pages, one for each command
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma man --out man1
  man -l man1/inazuma-pretrain.1")]
pub struct ManArgs {
    /// Folder of inazuma.1, inazuma-pretrain.1 and so on; made where it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Print what a shell completes
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma completions bash > ~/.local/share/bash-completion/completions/inazuma
  inazuma completions zsh > ~/.zfunc/_inazuma
  inazuma completions fish > ~/.config/fish/completions/inazuma.fish")]
pub struct CompletionsArgs {
    /// The shell that reads it
    #[arg(value_enum)]
    shell: Shell,
}

pub fn man(args: ManArgs) -> Result<()> {
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    // The pages of `help` would say what the others do.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &args.out)
}

fn write_pages(command: &Command, folder: &Path) -> Result<()> {
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_pages(below, folder))?;
    let manual = Man::new(command.clone()).source(concat!("inazuma ", env!("CARGO_PKG_VERSION")));
    let path = folder.join(manual.get_filename());
    page(&manual, command)
        .and_then(|page| fs::write(&path, page))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A page as clap_mangen makes it, but that the lines of examples stay lines.
fn page(manual: &Man, command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    manual.render_title(&mut page)?;
    manual.render_name_section(&mut page)?;
    manual.render_synopsis_section(&mut page)?;
    manual.render_description_section(&mut page)?;
    manual.render_options_section(&mut page)?;
    if command.has_subcommands() {
        manual.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    after.iter().flat_map(|text| text.split("\n\n")).try_for_each(|part| add_part(&mut page, part))?;
    if command.get_version().is_some() {
        manual.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// A part of what stands below the options: examples, or notes whose lines may be broken where they are too long.
fn add_part(page: &mut Vec<u8>, part: &str) -> std::io::Result<()> {
    let mut roff = Roff::new();
    let examples = ["Examples:", "Example:"].iter().find_map(|heading| part.strip_prefix(heading));
    match examples {
        Some(lines) => {
            roff.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in lines.lines().filter(|line| !line.trim().is_empty()) {
                // What goes on from the line before stands further in.
                roff.text([roman(line.strip_prefix("  ").unwrap_or(line.trim_start()))]);
            }
            roff.control("fi", []);
        }
        None => {
            roff.control("SH", ["NOTES"]);
            // A line that begins with spaces begins anew.
            for line in part.lines() {
                roff.text([roman(line)]);
            }
        }
    }
    roff.to_writer(page)
}

pub fn completions(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "inazuma", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::columns;

    /// The command and all below it, with their whole names.
    fn each(command: &Command, name: &str, look: &mut dyn FnMut(&Command, &str)) {
        look(command, name);
        for below in command.get_subcommands() {
            each(below, &format!("{name} {}", below.get_name()), look);
        }
    }

    fn all(look: &mut dyn FnMut(&Command, &str)) {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        each(&command, "inazuma", look);
    }

    #[test]
    fn every_option_has_a_help() {
        let (mut missing, mut options) = (Vec::new(), 0);
        all(&mut |command, name| {
            options += command.get_arguments().count();
            let text =
                |argument: &clap::Arg| argument.get_help().map(ToString::to_string).unwrap_or_default();
            let bare = command.get_arguments().filter(|argument| text(argument).trim().len() < 10);
            // clap's own.
            let bare = bare.filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()));
            missing.extend(bare.map(|argument| format!("{name}: {}", argument.get_id())));
            if command.get_about().is_none() {
                missing.push(format!("{name}: what it does"));
            }
        });
        assert!(options > 200, "{options}");
        assert!(missing.is_empty(), "{missing:#?}");
    }

    /// Lines that go on say so to the shell.
    #[test]
    fn examples_are_not_broken_by_the_terminal() {
        let mut found = 0;
        all(&mut |command, name| {
            let Some(text) = command.get_after_help().map(ToString::to_string) else { return };
            let mut goes_on = false;
            for line in text.lines().take_while(|line| !line.is_empty()) {
                assert!(columns(line) <= 100, "{name}: {line}");
                let begins = line.starts_with("  ") && !line.starts_with("   ");
                assert!(line.starts_with("Example") || begins != goes_on, "{name}: {line}");
                goes_on = line.ends_with('\\');
                found += usize::from(goes_on);
            }
            assert!(!goes_on, "{name}");
        });
        assert!(found > 3, "{found}");
    }

    /// What completions offer where anything else may stand, too.
    #[test]
    fn presets_and_devices_are_completed() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Zsh, &mut Cli::command(), "inazuma", &mut script);
        let script = String::from_utf8(script).unwrap();
        for values in ["(auto cpu gpu)", "(tiny small"] {
            assert!(script.contains(values), "{values}");
        }
        let parsed = |words: &str| {
            let result = Cli::command().try_get_matches_from(words.split_whitespace());
            result.map(drop).map_err(|error| error.to_string())
        };
        parsed("inazuma pretrain --store s --out r --device llvmpipe --preset tni").unwrap();
        parsed("inazuma finetune squad --init none --preset tni --train f --out d").unwrap();
        let wrong = parsed("inazuma bench peaks --device gpu:x").unwrap_err();
        assert!(wrong.contains("\"x\" is not the number of an adapter"), "{wrong}");
    }
}
