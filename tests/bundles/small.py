"""Settings that make each segmentation network one of seconds, on crops of 16x16x16 voxels."""

U_NET = {"network_def#channels": [4, 8], "network_def#strides": [2]}
SEGMENTATION = {
    "seg_unet": U_NET,
    "seg_resunet": U_NET,
    "seg_wideresunet": U_NET,
    "seg_dynunet": {"network_def#filters": [4, 8, 8, 8, 8]},
    "seg_vnet": {},  # no width to set
    "seg_swinunetr": {"network_def#feature_size": 12},
}
