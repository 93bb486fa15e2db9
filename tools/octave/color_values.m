% VIFB's metrics of a color triple, printed as "name value". The visible image comes first, as VIFB calls them.
function color_values(a_file, b_file, f_file)
  pkg load image
  a = imread(a_file); b = imread(b_file); f = imread(f_file);
  vifb = {'Avg_gradient', 'Cross_entropy', 'Edge_intensity', 'Entropy', 'Mutinf', 'Psnr', ...
          'Qabf', 'Qcb', 'Qcv', 'Rmse', 'Spatial_frequency', 'Ssim', 'Variance'};
  for i = 1:numel(vifb)
    printf('vifb.%s %.17g\n', vifb{i}, real(feval(['metrics' vifb{i}], b, a, f)));
  end
end
