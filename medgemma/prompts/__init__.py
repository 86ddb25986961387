"""From messages and pictures to ids and masks: chat template, image slots, what a turn holds, thinking."""
