//! Commands inside containers: health checks, reloads, sessions of `exec`.

use std::os::fd::AsFd;

use super::failure::{refusal, sentence};
use super::flight::Outcome;
use super::heard::Unwell;
use super::prepare::{self, Job, Ready};
use super::reconcile::{Image, OfImage};
use super::run::{Effect, Engine, Purpose};
use crate::manifest::scalar::Name;
use crate::sandbox::status::{End, Status};
use crate::sys::signals;

impl Engine {
    /// Ends the commands whose answer nobody waits for any more: a probe that hangs
    /// must not pile up.
    pub(super) fn end_abandoned(&self) {
        for flight in self.flights.values() {
            if let (Some(Purpose::Probe(asked)), Some(process)) = (&flight.command, &flight.process)
                && asked.answer.is_closed()
            {
                // With what it started; it alone before it leads a group.
                process.end_group();
                let _ = signals::send(process.pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Runs a command inside a container.
    pub(super) fn command(&mut self, name: Name, incarnation: u64, job: Job, purpose: Purpose) {
        let inside = match self.inside(&name, incarnation) {
            Some(inside) => inside,
            None => {
                self.command_ready(name, Err("the container is not running".to_owned()), purpose);
                return;
            }
        };
        let record = self.observed.record(&name);
        let image = record.and_then(|record| record.image.clone());
        let (workshop, effects) = (self.workshop.clone(), self.effects.clone());
        tokio::task::spawn_local(async move {
            let image = match image {
                Some(Image { process: Some(process), .. }) => Ok(Some(process)),
                Some(Image { id, .. }) => {
                    workshop.images.config(&id).await.map(|config| Some(OfImage::from(&config)))
                }
                None => Ok(None),
            };
            tokio::task::spawn_blocking(move || {
                let inside = image.map(|image| prepare::Inside { image, ..inside });
                let result = inside.and_then(|inside| prepare::command(&workshop, &inside, job));
                let result = result.map(Box::new);
                let _ = effects.send(Effect::CommandReady { name, result, purpose });
            });
        });
    }

    fn inside(&self, name: &Name, incarnation: u64) -> Option<prepare::Inside> {
        let live = self.lives.get(name)?;
        let process = live.running(incarnation)?;
        Some(prepare::Inside {
            name: name.to_string(),
            called: self.observed.called(name).to_string(),
            manifest: self.observed.record(name)?.applied.clone()?,
            pidfd: process.pidfd.try_clone().ok()?,
            pid: process.pid,
            cgroup: live.cgroup(),
            image: None,
        })
    }

    pub(super) fn command_ready(
        &mut self,
        name: Name,
        result: Result<Box<Ready>, String>,
        purpose: Purpose,
    ) {
        match (result, purpose) {
            (result, Purpose::Exec(id)) => self.exec_ready(name, id, result),
            (Ok(mut ready), mut purpose) => {
                if let Purpose::Probe(asked) = &mut purpose {
                    asked.listening = asked.heard.listen(std::mem::take(&mut ready.ends));
                }
                let incarnation = self.observed.record(&name).map_or(0, |r| r.incarnation);
                self.take_off(name, incarnation, *ready, Some(purpose));
            }
            (Err(error), Purpose::Probe(asked)) => drop(asked.answer.send(Err(error.into()))),
            (Err(error), Purpose::Reload) => {
                self.warn(&name, &format!("reload: {error}"));
            }
        }
    }

    pub(super) fn command_outcome(&mut self, name: &Name, key: u64, outcome: Outcome) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        if let Some(Purpose::Exec(id)) = &flight.command {
            let (id, plan) = (id.clone(), flight.plan.take());
            self.exec_outcome(&id, outcome, plan);
            return;
        }
        let result = match outcome {
            Outcome::Launched { .. } => return,
            Outcome::Failed { status: Status { failure: Some(failure), .. }, .. } => {
                let code = if failure.exit_code() == 127 { 127 } else { 126 };
                Err(Unwell { code, why: sentence(&failure, flight.plan.as_ref()) })
            }
            Outcome::Failed { errno: Some(errno), .. } => Err(refusal(errno).into()),
            Outcome::Failed { .. } => Err("it ended before it was executed".to_owned().into()),
            Outcome::Ended(Some(End::Exit(0))) => Ok(()),
            Outcome::Ended(Some(end)) => {
                let why = format!("it ended with status {}", end.code());
                Err(Unwell { code: end.code(), why })
            }
            Outcome::Ended(None) => Err("how it ended is not known".to_owned().into()),
        };
        match (flight.command.replace(Purpose::Reload), result) {
            (Some(Purpose::Probe(asked)), result) => {
                tokio::task::spawn_local(async move {
                    asked.listening.finish().await;
                    asked.answer.send(result)
                });
            }
            (_, Err(error)) => self.warn(name, &format!("reload: {}", error.why)),
            (_, Ok(())) => {}
        }
    }
}
