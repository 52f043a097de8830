// SPDX-License-Identifier: MPL-2.0
//
// A clip in a C program, by GStreamer's own interface alone: progress, cancellation, errors, provenance.
//
//   cc embed.c -o embed $(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0 gstreamer-video-1.0)
//   GST_PLUGIN_PATH=/path/to/target/release ./embed PICTURE OUTPUT [--cancel-after-step=N] [PROPERTY=VALUE...]
//
// Writes the frames one behind the other to OUTPUT, as PPM pictures, then makes the same clip again from its provenance
// and compares. Exits with 0 if all went well, 2 if it was cancelled (Ctrl+C does it, too), else 1 with the reason.

#include <gst/app/app.h>
#include <gst/video/video.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { MADE, FAILED, CANCELLED } End;
static volatile sig_atomic_t cancelled;

static void cancel(int signal) {
    (void)signal;
    cancelled = 1;
}

// Appends a frame as a PPM picture, without the padding of its rows. Called on the streaming thread.
static GstFlowReturn take(GstAppSink *sink, gpointer clip) {
    GstSample *sample = gst_app_sink_pull_sample(sink);
    GstVideoInfo info;
    GstVideoFrame frame;
    if (!sample) return GST_FLOW_EOS;
    if (!gst_video_info_from_caps(&info, gst_sample_get_caps(sample)) ||
        !gst_video_frame_map(&frame, &info, gst_sample_get_buffer(sample), GST_MAP_READ)) {
        gst_sample_unref(sample);
        return GST_FLOW_ERROR;
    }
    g_autofree char *head = g_strdup_printf("P6 %d %d 255\n", info.width, info.height);
    g_byte_array_append(clip, (const guint8 *)head, strlen(head));
    for (int y = 0; y < info.height; y++) {
        const guint8 *row = GST_VIDEO_FRAME_PLANE_DATA(&frame, 0);
        g_byte_array_append(clip, row + y * GST_VIDEO_FRAME_PLANE_STRIDE(&frame, 0), 3 * info.width);
    }
    gst_video_frame_unmap(&frame);
    gst_sample_unref(sample);
    return GST_FLOW_OK;
}

// Handles a message. True if it was the last; then `end` says how it ended.
static gboolean handle(GstMessage *message, int last_step, char **provenance, End *end) {
    g_autoptr(GError) error = NULL;
    g_autofree char *code = NULL, *text = NULL;
    const GstStructure *told;
    int step;
    switch (GST_MESSAGE_TYPE(message)) {
    case GST_MESSAGE_EOS:
        *end = MADE;
        return TRUE;
    case GST_MESSAGE_ERROR:
        gst_message_parse_error(message, &error, NULL);
        g_printerr("%s\n", error->message);
        *end = FAILED;
        return TRUE;
    case GST_MESSAGE_PROGRESS:
        gst_message_parse_progress(message, NULL, &code, &text);
        g_print("%s: %s\n", code, text);
        if (sscanf(text, "Denoising step %d ", &step) == 1 && last_step > 0 && step >= last_step) cancelled = 1;
        return FALSE;
    case GST_MESSAGE_ELEMENT:
        told = gst_message_get_structure(message);
        if (gst_structure_has_name(told, "svdsrc-clip")) {
            g_free(*provenance);
            *provenance = g_strdup(gst_structure_get_string(told, "provenance"));
        }
        return FALSE;
    default:
        return FALSE;
    }
}

// Plays a pipeline of `src` to its end, and takes its frames.
static End make(GstElement *src, int last_step, GByteArray *clip, char **provenance) {
    GstElement *pipeline = gst_pipeline_new(NULL), *sink = gst_element_factory_make("appsink", NULL);
    g_autoptr(GstCaps) caps = gst_caps_from_string("video/x-raw,format=RGB");
    GstAppSinkCallbacks callbacks = {.new_sample = take};
    End end = CANCELLED;
    g_object_set(sink, "caps", caps, "sync", FALSE, NULL);
    gst_app_sink_set_callbacks(GST_APP_SINK(sink), &callbacks, clip, NULL);
    gst_bin_add_many(GST_BIN(pipeline), src, sink, NULL);
    gst_element_link(src, sink);
    gst_element_set_state(pipeline, GST_STATE_PLAYING); // where this fails, the bus says why
    g_autoptr(GstBus) bus = gst_element_get_bus(pipeline);
    for (gboolean is_last = FALSE; !is_last && !cancelled;) {
        GstMessage *message = gst_bus_timed_pop(bus, 100 * GST_MSECOND);
        if (!message) continue;
        is_last = handle(message, last_step, provenance, &end);
        gst_message_unref(message);
    }
    // Comes back at once, whatever is in the making: the model's thread ends by itself.
    gst_element_set_state(pipeline, GST_STATE_NULL);
    gst_object_unref(pipeline);
    return cancelled ? CANCELLED : end;
}

int main(int argc, char **argv) {
    gst_init(&argc, &argv);
    if (argc < 3) {
        g_printerr("usage: embed PICTURE OUTPUT [--cancel-after-step=N] [PROPERTY=VALUE...]\n");
        return 1;
    }
    signal(SIGINT, cancel);
    GstElement *src = gst_element_factory_make("svdsrc", NULL);
    if (!src) {
        g_printerr("there is no svdsrc: does GST_PLUGIN_PATH name the folder with libgsttorchvideo.so?\n");
        return 1;
    }
    int last_step = 0;
    g_object_set(src, "location", argv[1], NULL);
    for (int i = 3; i < argc; i++) {
        g_auto(GStrv) parts = g_strsplit(argv[i], "=", 2);
        if (g_str_has_prefix(argv[i], "--cancel-after-step="))
            last_step = atoi(parts[1]);
        else if (parts[0] && parts[1] && g_object_class_find_property(G_OBJECT_GET_CLASS(src), parts[0]))
            gst_util_set_object_arg(G_OBJECT(src), parts[0], parts[1]); // whether it is possible is told on the bus
        else {
            g_printerr("svdsrc has no property %s\n", argv[i]);
            return 1;
        }
    }
    g_autoptr(GByteArray) clip = g_byte_array_new();
    g_autoptr(GByteArray) second = g_byte_array_new();
    g_autofree char *provenance = NULL, *other = NULL;
    g_autoptr(GError) error = NULL;
    End end = make(src, last_step, clip, &provenance);
    if (end == MADE && !g_file_set_contents(argv[2], (const char *)clip->data, clip->len, &error)) {
        g_printerr("%s\n", error->message);
        end = FAILED;
    }
    if (end == MADE) {
        GstElement *again = gst_element_factory_make("svdsrc", NULL);
        g_print("provenance: %s\n", provenance);
        g_object_set(again, "provenance", provenance, NULL); // picture, model, seed: all of it
        end = make(again, last_step, second, &other);
        if (end == MADE) {
            gboolean is_same = clip->len == second->len && memcmp(clip->data, second->data, clip->len) == 0;
            g_print("made again: %s\n", is_same ? "the same, byte for byte" : "another clip");
        }
    }
    if (end == CANCELLED) g_print("cancelled\n");
    return end == MADE ? 0 : end == CANCELLED ? 2 : 1;
}
