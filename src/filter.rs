// SPDX-License-Identifier: MPL-2.0
//! What the filters share as elements: pads, and whose memory frames are in.

/// A sink and a source pad that can have `caps`.
pub fn pad_templates(caps: &gst::Caps) -> Vec<gst::PadTemplate> {
    let always = gst::PadPresence::Always;
    [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
        .map(|(name, direction)| gst::PadTemplate::new(name, direction, always, caps).expect("the template is valid"))
        .into()
}

/// Tells upstream that rows and planes of frames may lie where a meta says.
pub fn take_any_layout(query: &mut gst::query::Allocation) {
    query.add_allocation_meta::<gst_video::VideoMeta>(None);
}

/// Leaves the pools that downstream offers alone: frames come out in the memory that they came in, or in libtorch's.
pub fn use_own_memory(query: &mut gst::query::Allocation) {
    while query.allocation_pools().next().is_some() {
        query.remove_nth_allocation_pool(0);
    }
}
