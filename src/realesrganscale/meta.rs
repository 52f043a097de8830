// SPDX-License-Identifier: MPL-2.0
//! What a frame has besides its picture, and keeps: timestamps, flags, metas.

use gst_video::VideoRegionOfInterestMeta;
use gst_video::video_meta::{VideoMetaTransformScale, tags};

use super::queue::Format;

/// The buffer that comes out for `buffer`, without a picture yet. What tells of places in the picture is scaled with it.
pub fn shell(buffer: &gst::Buffer, format: &Format) -> gst::Buffer {
    let mut shell = gst::Buffer::new();
    let out = shell.make_mut();
    let kept = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
    buffer.copy_into(out, kept, ..).expect("flags and times can be copied");
    let [height, width] = format.task.size.map(|side| side as u32);
    let shown = gst_video::VideoInfo::builder(format.output.format(), width, height).build();
    let scale = shown.as_ref().ok().map(|shown| VideoMetaTransformScale::new(&format.input, shown));
    buffer.foreach_meta(|meta| {
        // How the input lies in memory, and what keeps it there, is another matter; the rest is not.
        if !meta.has_tag::<gst::meta::tags::Memory>() && !meta.has_tag::<gst::meta::tags::MemoryReference>() {
            let done = match &scale {
                Some(scale) if meta.has_tag::<tags::Size>() => meta.transform(out, scale),
                _ => meta.transform(out, &gst::meta::MetaTransformCopy::new(..)),
            };
            if let Err(err) = done {
                gst::log!(gst::CAT_RUST, "{err}");
            }
        }
        std::ops::ControlFlow::Continue(())
    });
    let [top, left] = format.task.origin.map(|side| side as u32);
    if top + left > 0 {
        for mut region in out.iter_meta_mut::<VideoRegionOfInterestMeta>() {
            let (x, y, width, height) = region.rect();
            region.set_rect((x + left, y + top, width, height));
        }
    }
    shell
}
