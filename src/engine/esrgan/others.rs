// SPDX-License-Identifier: MPL-2.0
//! Other networks that people have files of, by names that only their tensors have, so that an error can name them.

use super::Shapes;

/// A network's name, and for each of these a tensor must have it in its name, at its beginning or behind a dot. The
/// first network that fits is it: those that grew out of another stand before it.
const OTHERS: &[(&str, &[&str])] = &[
    // They have all that RRDBNet has, and more.
    ("SPSR", &["f_HR_conv1."]),
    ("MM-RealSR", &["am_list.0.fc.", "de_net."]),
    // Transformers for single pictures.
    ("HAT", &["conv_block.cab.0.", "overlap_attn."]),
    ("ATD", &["attn_atd."]),
    ("DRCT", &["layers.0.swin1.", "layers.0.adjust1."]),
    ("CRAFT", &["residual_group.hf_blocks.0."]),
    ("GRL", &["stripe_attn.attn_transform1."]),
    ("RGT", &["before_RG.1.", "layers.0.blocks.0.gamma"]),
    ("DAT", &["before_RG.1.", "attn.attns.0."]),
    ("SRFormer", &["residual_group.blocks.0.", "mlp.dwconv.depthwise_conv."]),
    ("SwinFIR", &["residual_group.blocks.0.", "layers.0.conv.F."]),
    ("Swin2SR", &["residual_group.blocks.0.", "patch_embed.proj."]),
    ("SwinIR", &["residual_group.blocks.0.norm1."]),
    ("OmniSR", &["residual_layer.0.residual_layer.0."]),
    ("FDAT", &["groups.0.blocks.0.inter.cg."]),
    ("DITN", &["UFONE.0.ITLs.0."]),
    ("DCTLSA", &["B1.body.0.transformer_body.0."]),
    // Convolutions for single pictures.
    ("SPAN", &["block_1.c1_r.sk."]),
    ("RealPLKSR", &["feats.1.lk.", "feats.1.norm."]),
    ("PLKSR", &["feats.1.lk."]),
    ("MoESR", &["in_to_dim.", "blocks.0.blocks.0.gamma"]),
    ("MoSR", &["gblocks.0."]),
    ("SAFMN", &["safm.mfr.0."]),
    ("SeemoRe", &["body.0.local_block.block."]),
    ("RCAN", &["body.0.body.0.body.3.conv_du.0."]),
    ("EDSR", &["head.0.", "body.0.body.0.", "tail.0.0."]),
    ("SRResNet (MSRResNet)", &["conv_first.", "body.0.conv1.", "conv_up1."]),
    ("SwiftSRGAN", &["initial.cnn.depthwise."]),
    ("AuraSR", &["mid_attn.layers.0.0.", "final_res_block."]),
    ("Real-CUGAN (waifu2x's UpCunet)", &["unet1.conv1.conv.0.", "unet2.conv1.conv.0."]),
    ("NAFNet", &["middle_blks.0.beta"]),
    ("LaMa", &["ffc.convl2l."]),
    ("SCUNet", &["m_head.0.", "m_body.0."]),
    ("FBCNN", &["m_head.weight", "qf_pred."]),
    ("DRUNet", &["m_head.weight", "m_down1.0."]),
    // Faces.
    ("GFPGAN", &["stylegan_decoder."]),
    ("CodeFormer", &["quantize.embedding.", "position_emb", "feat_emb."]),
    ("RestoreFormer", &["quantize.embedding.", "quant_conv."]),
    // Video.
    ("RealBasicVSR", &["image_cleaning.", "spynet."]),
    ("BasicVSR++", &["spynet.", "deform_align."]),
    ("BasicVSR", &["spynet.", "backward_trunk."]),
    ("BasicVSR", &["spynet.", "backward_resblocks."]),
    ("EDVR", &["pcd_align."]),
    ("RIFE (IFNet)", &["block0.conv0.0.0.", "block1.conv0.0.0."]),
    // What makes pictures from nothing.
    ("the UNet of Stable Video Diffusion", &["down_blocks.0.", "temporal_transformer_blocks.0."]),
    ("the VAE of Stable Video Diffusion", &["decoder.time_conv_out."]),
    ("a whole model of Stable Diffusion", &["model.diffusion_model.", "first_stage_model."]),
    ("a UNet of Stable Diffusion", &["down_blocks.0.", "time_embedding.linear_1."]),
    ("a VAE of Stable Diffusion", &["decoder.mid_block.", "encoder.down_blocks.0."]),
    // The other half of a training.
    (JUDGES[0], &["conv0.", "conv1.weight_orig", "conv9."]),
    (JUDGES[1], &["conv0_0.", "bn0_1.", "linear1."]),
    (JUDGES[2], &["features.0.", "classifier.0.", "classifier.2."]),
];

/// Networks that only judge pictures while another one is trained.
const JUDGES: [&str; 3] = ["UNetDiscriminatorSN", "VGGStyleDiscriminator", "ESRGAN's discriminator"];

/// The networks that are known here, for errors.
const KNOWN: &str = "it runs RRDBNet (ESRGAN, Real-ESRGAN) and SRVGGNetCompact";

/// What an error says of these tensors, if they are known to be another network's.
pub fn named(shapes: &Shapes) -> Option<String> {
    let has = |part: &&str| {
        let is_inside =
            |name: &String| name.match_indices(part).any(|(at, _)| at == 0 || name.as_bytes()[at - 1] == b'.');
        shapes.keys().any(is_inside)
    };
    let (name, _) = OTHERS.iter().find(|(_, parts)| parts.iter().all(has))?;
    Some(if JUDGES.contains(name) {
        format!(
            "a discriminator ({name}), which only judges pictures in a training; the network that makes them is in the \
             training's other file (net_g instead of net_d)"
        )
    } else {
        format!("{name}, which realesrganscale does not run; {KNOWN}")
    })
}

/// What an error says of tensors that nobody knows.
pub fn unknown(shapes: &Shapes) -> String {
    let found = shapes.iter().take(4).map(|(name, shape)| format!("{name} {shape:?}"));
    let found = found.collect::<Vec<_>>().join(", ");
    format!(
        "neither an RRDBNet (conv_first, body.0.rdb1.conv1, …) nor an SRVGGNetCompact (body.0, body.2, …); its first of \
         {} tensors are {found}",
        shapes.len()
    )
}
