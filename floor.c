
#include <stdint.h>
#include <stddef.h>
#include <pthread.h>
typedef struct {const float*w;uint8_t*m;size_t n;float t;} job;
static void* run(void*p){job*j=p;const float*w=j->w;uint8_t*m=j->m;float t=j->t;size_t n=j->n;for(size_t i=0;i<n;i++){float a=__builtin_fabsf(w[i]); m[i]=a>=t;} return 0;}
void mask(const float*w,uint8_t*m,size_t n,float t){ size_t h=n/2/64*64; job a={w,m,h,t},b={w+h,m+h,n-h,t}; if(n<65536){job c={w,m,n,t};run(&c);return;} pthread_t th; pthread_create(&th,0,run,&a); run(&b); pthread_join(th,0);}
