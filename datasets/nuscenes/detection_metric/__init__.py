"""The nuScenes detection metric on columns: mAP, NDS and the five errors, the devkit's to the last bit."""
