//! `husk img snapshot`: the snapshots inside of an image.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use disk::qcow2::{Qcow2, Snapshot as Kept};
use disk::{Image, block_on};
use serde_json::{Value, json};

use super::args::{Snapshot, SnapshotVerb};
use super::{failed, open};
use crate::failure::Failure;
use crate::{print, size};

/// Lists, makes, applies or deletes one.
pub(crate) fn snapshot(args: &Snapshot) -> Result<ExitCode, Failure> {
    let SnapshotVerb { create, apply, delete, .. } = &args.verb;
    if create.is_none() && apply.is_none() && delete.is_none() {
        let image = open::describe(&args.file, None, &args.opening)?;
        let list = block_on(qcow2(&*image)?.snapshots());
        let text = if args.json { format!("{:#}\n", describe(&list)) } else { table(&list) };
        return print(text.as_bytes());
    }
    let image = open::write(&args.file, None, &args.opening)?;
    let qcow2 = qcow2(&*image)?;
    let done = block_on(async {
        if let Some(name) = create {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // The format has 32 bits for the seconds.
            let time = (u32::try_from(now.as_secs()).unwrap_or(u32::MAX), now.subsec_nanos());
            let id = qcow2.create_snapshot(name, time).await?;
            image.close().await?;
            return Ok(format!("snapshot {id} ({name}) is made\n"));
        }
        if let Some(which) = apply {
            qcow2.apply_snapshot(which).await?;
            image.close().await?;
            return Ok(format!("the disk is as in snapshot {which}\n"));
        }
        let which = delete.as_deref().unwrap_or_default();
        qcow2.delete_snapshot(which).await?;
        image.close().await?;
        Ok(format!("snapshot {which} is deleted\n"))
    });
    let text = done.map_err(|error: disk::Error| failed(&error))?;
    if args.quiet { Ok(ExitCode::SUCCESS) } else { print(text.as_bytes()) }
}

fn qcow2(image: &dyn Image) -> Result<&Qcow2, Failure> {
    let info = image.info();
    image.as_qcow2().ok_or_else(|| {
        let cause = format!("{} images have no snapshots inside", info.format);
        Failure::input(info.path.display(), cause, "convert it to qcow2")
    })
}

/// For programs.
pub(crate) fn describe(list: &[Kept]) -> Value {
    let each = list.iter().map(|kept| {
        json!({
            "id": kept.id,
            "name": kept.name,
            "date-sec": kept.time.0,
            "date-nsec": kept.time.1,
            "vm-clock-sec": kept.guest_time / 1_000_000_000,
            "vm-clock-nsec": kept.guest_time % 1_000_000_000,
            "vm-state-size": kept.vm_state,
            "disk-size": kept.disk_size,
        })
    });
    Value::Array(each.collect())
}

/// For people.
pub(crate) fn table(list: &[Kept]) -> String {
    let width = list.iter().map(|kept| kept.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("  {:<4} {:<width$}  {:<19}  disk\n", "id", "name", "made (UTC)");
    for kept in list {
        let (id, made, disk) = (&kept.id, date(u64::from(kept.time.0)), size::show(kept.disk_size));
        text += &format!("  {id:<4} {:<width$}  {made}  {disk}\n", kept.name);
    }
    text
}

/// A day of the Gregorian calendar and a time, from the seconds since 1970.
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86400, seconds % 86400);
    // Years that begin in March have their odd day at the end; eras of 400 of them are all alike.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        let known = [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_164_799, "2024-02-28 23:59:59"),
            (4_294_967_295, "2106-02-07 06:28:15"),
        ];
        for (seconds, text) in known {
            assert_eq!(super::date(seconds), text);
        }
    }
}
