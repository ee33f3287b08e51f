//! `husk img info` and `husk img map`: what an image is, and where its data is.

use std::process::ExitCode;

use disk::{Extent, Kind};
use serde_json::{Map as Object, Value, json};

use super::args::{Info, Map};
use super::{copy, failed, open};
use crate::failure::Failure;
use crate::{print, size};

/// Says what the image is.
pub(crate) fn info(args: &Info) -> Result<ExitCode, Failure> {
    let mut all = Vec::new();
    let mut next = Some((args.file.clone(), args.format));
    // A chain that loops has been refused when it was opened.
    while let Some((path, format)) = next {
        let image = open::describe(&path, format, &args.opening)?;
        let info = image.info();
        let behind = info.backing.as_ref().filter(|_| args.chain);
        next = behind.map(|backing| (open::path_of(&info, &backing.name), None));
        let snapshots = image.as_qcow2().map(|image| disk::block_on(image.snapshots())).unwrap_or_default();
        all.push((info, snapshots));
        if all.len() > open::LONGEST_CHAIN {
            return Err(Failure::input(
                args.file.display(),
                "its chain of images has no end",
                "check what is behind it",
            ));
        }
    }
    if args.json {
        let values: Vec<Value> = all.iter().map(|(info, snapshots)| describe(info, snapshots)).collect();
        let value = if args.chain { Value::Array(values) } else { values.into_iter().next().unwrap_or_default() };
        return print(format!("{value:#}\n").as_bytes());
    }
    let texts: Vec<String> = all.iter().map(|(info, snapshots)| tell(info, snapshots)).collect();
    print(texts.join("\n").as_bytes())
}

fn describe(info: &disk::Info, snapshots: &[disk::qcow2::Snapshot]) -> Value {
    let mut object = Object::new();
    let mut put = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
    put("filename", info.path.to_string_lossy().into());
    put("format", info.format.into());
    put("virtual-size", info.size.into());
    put("dirty-flag", info.dirty.into());
    put("encrypted", info.encrypted.into());
    if let Some(bytes) = info.on_host {
        put("actual-size", bytes.into());
    }
    if let Some(bytes) = info.cluster {
        put("cluster-size", bytes.into());
    }
    if let Some(backing) = &info.backing {
        put("backing-filename", backing.name.as_str().into());
        put("full-backing-filename", open::path_of(info, &backing.name).to_string_lossy().into());
        if let Some(format) = &backing.format {
            put("backing-filename-format", format.as_str().into());
        }
    }
    if !snapshots.is_empty() {
        put("snapshots", super::snapshot::describe(snapshots));
    }
    let details = info.details.iter().map(|(name, value)| {
        let value = match value.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            text => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        };
        (name.replace(' ', "-"), value)
    });
    let data: Object<String, Value> = details.collect();
    if !data.is_empty() {
        put("format-specific", json!({ "type": info.format, "data": data }));
    }
    Value::Object(object)
}

fn tell(info: &disk::Info, snapshots: &[disk::qcow2::Snapshot]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{:<18}{value}\n", format!("{name}:"));
    line("image", info.path.display().to_string());
    line("format", info.format.to_owned());
    line("disk", format!("{} ({} bytes)", size::show(info.size), info.size));
    if let Some(bytes) = info.on_host {
        line("on this host", size::show(bytes));
    }
    if let Some(bytes) = info.cluster {
        line("cluster", size::show(u64::from(bytes)));
    }
    if info.encrypted {
        line("encrypted", "yes".to_owned());
    }
    if info.dirty {
        line("dirty", "yes: it was not closed; 'husk img check' repairs it".to_owned());
    }
    if let Some(backing) = &info.backing {
        let format = backing.format.as_ref().map(|format| format!(" ({format})")).unwrap_or_default();
        line("backing", format!("{}{format}", backing.name));
    }
    for (name, value) in &info.details {
        line(name, value.clone());
    }
    if !snapshots.is_empty() {
        text += "snapshots:\n";
        text += &super::snapshot::table(snapshots);
    }
    text
}

/// Says where the data is.
pub(crate) fn map(args: &Map) -> Result<ExitCode, Failure> {
    let image = open::read(&args.file, args.format, &args.opening)?;
    let total = image.info().size;
    let mut extents: Vec<(u64, Extent)> = Vec::new();
    let join = |at: u64, extent: Extent| {
        // Neighbours of one kind are one.
        if let Some((start, last)) = extents.last_mut() {
            let goes_on = match (last.at, extent.at) {
                (Some(before), Some(at)) => before.checked_add(last.len) == Some(at),
                (None, None) => true,
                _ => false,
            };
            if *start + last.len == at && (last.kind, last.depth) == (extent.kind, extent.depth) && goes_on {
                last.len += extent.len;
                return Ok(());
            }
        }
        extents.push((at, extent));
        Ok(())
    };
    copy::extents(&*image, 0, total, join).map_err(|error| failed(&error))?;
    let mut text = String::new();
    if args.json {
        let list: Vec<Value> = extents.iter().map(|(at, extent)| describe_extent(*at, extent)).collect();
        return print(format!("{:#}\n", Value::Array(list)).as_bytes());
    }
    text += "          offset           length  kind  depth  in the file\n";
    for (at, extent) in &extents {
        let kind = match extent.kind {
            Kind::Data => "data",
            Kind::Zero => "zero",
            Kind::Hole => "hole",
        };
        let place = extent.at.filter(|_| extent.kind == Kind::Data).map(|at| at.to_string()).unwrap_or_default();
        text += &format!("{at:>16} {:>16}  {kind}  {:>5}  {place}\n", extent.len, extent.depth);
    }
    print(text.as_bytes())
}

fn describe_extent(at: u64, extent: &Extent) -> Value {
    let mut value = json!({
        "start": at,
        "length": extent.len,
        "depth": extent.depth,
        "present": extent.kind != Kind::Hole,
        "zero": extent.kind != Kind::Data,
        "data": extent.kind == Kind::Data,
    });
    if let (Some(place), Some(object)) = (extent.at.filter(|_| extent.kind == Kind::Data), value.as_object_mut()) {
        object.insert("offset".to_owned(), place.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_have_the_names_of_qemu_img() {
        let extent = Extent { len: 5, kind: Kind::Data, depth: 1, at: Some(9) };
        let known =
            json!({ "start": 3, "length": 5, "depth": 1, "present": true, "zero": false, "data": true, "offset": 9 });
        assert_eq!(describe_extent(3, &extent), known);
    }
}
